"""CATs++ on SPair-71k with its published schedule.

    SPAIR_ROOT=SPair-71k detkit train catspp_spair
    SPAIR_ROOT=SPair-71k detkit evaluate catspp_spair --set data.val.split=test

Time: not run here.
Score: not run here.
Data: SPair-71k in data/SPair-71k, or in the folder that the environment variable SPAIR_ROOT names.

The published batch of 32 pairs of 512 x 512 pixels needs a large GPU; `data.batch_size=8 train.accumulate=4` takes as
many in four parts.
"""

from _base.match import backwards, catspp, recipe, spair

config = recipe(catspp(), spair("trn"), backwards(spair("val")), lr=3e-4)
