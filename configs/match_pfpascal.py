"""MatchMe on PF-PASCAL (arXiv 2311.18540): CATs++ teaches itself on pairs of training images that are not annotated.

    PF_PASCAL_ROOT=PF-PASCAL python tools/match.py configs/match_pfpascal.py

Of the 1001 images of the training pairs, 302 are also in validation pairs and 302 in test pairs; they stay out of the
pool. A list of other images of the classes (`detkit.data.pairs.pool.ImageList`) can take its place.

The paper's method section is not public: rounds, rules and weights are this project's choice.
"""

from _base.match import backwards, catspp, pfpascal, recipe, strong_augmentation

model = catspp()
config = recipe(model, pfpascal("trn"), backwards(pfpascal("val")), lr=3e-4, threshold="img")
config["rounds"] = dict(
    pool=dict(type="PairImages", pairs=pfpascal("trn"), without=[pfpascal("val"), pfpascal("test")]),
    pairs=6000,
    rounds=3,
    ramp=10,
    student=dict(data=dict(transforms=strong_augmentation(model["side"]))),
    test=backwards(pfpascal("test")),
)
