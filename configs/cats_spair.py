"""CATs on SPair-71k with its published schedule; 49.9 PCK@0.1 on the test split by the authors.

    SPAIR_ROOT=SPair-71k python tools/train.py configs/cats_spair.py
    python tools/evaluate.py runs/cats_spair/best.safetensors --set data.val.split=test

For the standard direction, from source to target: `--set data.val.direction=source_to_target`.
"""

from _base.match import backwards, cats, recipe, spair

config = recipe(cats(), spair("trn"), backwards(spair("val")))
