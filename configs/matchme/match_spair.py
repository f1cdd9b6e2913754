"""MatchMe on SPair-71k (arXiv 2311.18540): CATs++ teaches itself on unpaired images, in up to three rounds.

    SPAIR_ROOT=SPair-71k SPAIR_POOL=pool.json detkit match match_spair

Time: not run here.
Score: not run here. Rounds, rules and weights are this project's choice, so the paper's figures need not hold.
Data: SPair-71k in data/SPair-71k, or in the folder that the environment variable SPAIR_ROOT names; the list of
unlabelled images is data/spair_pool/pool.json, or what SPAIR_POOL names.

The pairs of SPair-71k are nearly all that its training images can form, so new pairs need other images of its classes.
`pool.json` lists them (see `detkit.data.pairs.pool.ImageList`), for example images of PASCAL VOC 2012 cut out around
their boxes with some margin. Images of the validation and test splits, known by their names, are refused.
"""

from _base.match import backwards, catspp, recipe, spair, strong_augmentation

from detkit.config import data_folder

model = catspp()
config = recipe(model, spair("trn"), backwards(spair("val")), lr=3e-4)
config["rounds"] = dict(
    pool=dict(type="ImageList", annotations=data_folder("SPAIR_POOL", "data/spair_pool/pool.json")),
    pairs=53340,
    rounds=3,
    ramp=10,
    student=dict(data=dict(transforms=strong_augmentation(model["side"]))),
    test=backwards(spair("test")),
    same_names=True,
)
