"""MatchMe on your own images: a few pairs with key-points, many images of the same classes without.

    PAIRS_ROOT=folder detkit match match_custom --out runs/mine

Time: not measured; depends on your images.
Score: not measured; depends on your images.
Data: the folder is that of cats_custom.py, whose options count here too, with `unlabelled.json`: the same kind of file
as `keypoints.json`, its key-points left out. Without PAIRS_ROOT it is data/pairs.
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
