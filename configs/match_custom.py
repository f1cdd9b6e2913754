"""MatchMe on your own images: a few pairs with key-points, and many images of the same classes without any.

    PAIRS_ROOT=folder python tools/match.py configs/match_custom.py --out runs/mine

The folder is that of `cats_custom.py`, whose options count here too, with `unlabelled.json`: the same kind of file as
`keypoints.json`, its key-points left out.
"""

from _base.match import strong_augmentation
from cats_custom import ROOT
from cats_custom import config as teacher

config = dict(
    teacher,
    rounds=dict(
        pool=dict(type="ImageList", annotations=f"{ROOT}/unlabelled.json"),
        pairs=2000,
        rounds=3,
        ramp=10,
        student=dict(data=dict(transforms=strong_augmentation(teacher["model"]["side"]))),
    ),
)
