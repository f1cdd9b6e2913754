"""CATs++ on PF-PASCAL with its published schedule (see catspp_spair.py for its memory).

    PF_PASCAL_ROOT=PF-PASCAL detkit train catspp_pfpascal
    PF_PASCAL_ROOT=PF-PASCAL detkit evaluate catspp_pfpascal --set data.val.split=test

Time: not run here.
Score: not run here.
Data: PF-PASCAL in data/PF-PASCAL, or in the folder that the environment variable PF_PASCAL_ROOT names.
"""

from _base.match import backwards, catspp, pfpascal, recipe

config = recipe(catspp(), pfpascal("trn"), backwards(pfpascal("val")), lr=3e-4, threshold="img")
