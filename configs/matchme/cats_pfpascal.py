"""CATs on PF-PASCAL with its published schedule.

    PF_PASCAL_ROOT=PF-PASCAL detkit train cats_pfpascal
    PF_PASCAL_ROOT=PF-PASCAL detkit evaluate cats_pfpascal --set data.val.split=test

Time: not run here.
Score: not run here; published on the test split: 92.6 PCK@0.1.
Data: PF-PASCAL in data/PF-PASCAL, or in the folder that the environment variable PF_PASCAL_ROOT names.
"""

from _base.match import LAYERS, backwards, cats, pfpascal, recipe

config = recipe(cats(LAYERS["pfpascal"]), pfpascal("trn"), backwards(pfpascal("val")), threshold="img")
