"""MatchMe on PF-PASCAL (arXiv 2311.18540): CATs++ teaches itself on training images in new pairs.

    PF_PASCAL_ROOT=PF-PASCAL detkit match match_pfpascal

Time: not run here.
Score: not run here. Rounds, rules and weights are this project's choice, so the paper's figures need not hold.
Data: PF-PASCAL in data/PF-PASCAL, or in the folder that the environment variable PF_PASCAL_ROOT names.

Of the 1001 images of the training pairs, 302 are also in validation pairs and 302 in test pairs; they stay out of the
pool. A list of other images of the classes (`detkit.data.pairs.pool.ImageList`) can take its place.
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
