"""CATs++ on PF-PASCAL with its published schedule (see `catspp_spair.py` for its memory).

PF_PASCAL_ROOT=PF-PASCAL python tools/train.py configs/catspp_pfpascal.py
"""

from _base.match import backwards, catspp, pfpascal, recipe

config = recipe(catspp(), pfpascal("trn"), backwards(pfpascal("val")), lr=3e-4, threshold="img")
