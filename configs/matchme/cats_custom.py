"""CATs on your own images with named key-points.

    PAIRS_ROOT=folder detkit train cats_custom --out runs/mine

Time: not measured; depends on your images.
Score: not measured; depends on your images.
Data: the folder, data/pairs where PAIRS_ROOT names none, holds `images`, `keypoints.json`, `pairs_trn.json` and
`pairs_val.json`; `detkit.data.pairs.keypoints` describes the files. Other places: `--set data.train.annotations=FILE
data.train.pairs=FILE data.train.images=FOLDER`, and the same for `data.val`.

Images without `bbox` need another threshold: `--set evaluator.threshold=bbox-kp`. The backbone stays as it is, which
suits a few hundred pairs; with more, train it too: `model.backbone.trainable=True`. Smaller: `model.backbone.depth=50
"model.backbone.layers=[4,8,12]"` with
`model.backbone.pretrained=https://download.pytorch.org/models/resnet50-0676ba61.pth`.
"""

from _base.match import cats, recipe

from detkit.config import data_folder

ROOT = data_folder("PAIRS_ROOT", "data/pairs")


def pairs(split):
    """The pairs of `pairs_<split>.json`."""
    return dict(type="KeypointPairs", annotations=f"{ROOT}/keypoints.json", pairs=f"{ROOT}/pairs_{split}.json")


config = recipe(cats(trainable=False), pairs("trn"), pairs("val"))
config["data"]["batch_size"] = 16
