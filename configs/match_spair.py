"""MatchMe on SPair-71k (arXiv 2311.18540): CATs++ teaches itself on unpaired images, in up to three rounds.

    SPAIR_ROOT=SPair-71k SPAIR_POOL=pool.json python tools/match.py configs/match_spair.py

The pairs of SPair-71k are nearly all that its training images can form, so new pairs need other images of its classes.
`pool.json` lists them (see `detkit.data.pairs.pool.ImageList`), for example images of PASCAL VOC 2012 cut out around
their boxes with some margin. Images of the validation and test splits, known by their names, are refused.

The paper's method section is not public: rounds, rules and weights are this project's choice.
"""

import os

from _base.match import backwards, catspp, recipe, spair, strong_augmentation

model = catspp()
config = recipe(model, spair("trn"), backwards(spair("val")), lr=3e-4)
config["rounds"] = dict(
    pool=dict(type="ImageList", annotations=os.environ.get("SPAIR_POOL", "data/spair_pool/pool.json")),
    pairs=53340,
    rounds=3,
    ramp=10,
    student=dict(data=dict(transforms=strong_augmentation(model["side"]))),
    test=backwards(spair("test")),
    same_names=True,
)
