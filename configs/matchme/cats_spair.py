"""CATs on SPair-71k with its published schedule.

    SPAIR_ROOT=SPair-71k detkit train cats_spair
    SPAIR_ROOT=SPair-71k detkit evaluate cats_spair --set data.val.split=test

Time: not run here.
Score: not run here; published on the test split: 49.9 PCK@0.1.
Data: SPair-71k in data/SPair-71k, or in the folder that the environment variable SPAIR_ROOT names.

For the standard direction, from source to target: `--set data.val.direction=source_to_target`.
"""

from _base.match import backwards, cats, recipe, spair

config = recipe(cats(), spair("trn"), backwards(spair("val")))
