"""CATs on PF-PASCAL with its published schedule; 92.6 PCK@0.1 on the test split by the authors.

PF_PASCAL_ROOT=PF-PASCAL python tools/train.py configs/cats_pfpascal.py
python tools/evaluate.py runs/cats_pfpascal/best.safetensors --set data.val.split=test
"""

from _base.match import LAYERS, backwards, cats, pfpascal, recipe

config = recipe(cats(LAYERS["pfpascal"]), pfpascal("trn"), backwards(pfpascal("val")), threshold="img")
