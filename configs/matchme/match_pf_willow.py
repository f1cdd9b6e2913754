"""MatchMe on PF-WILLOW split by image, with 20 labelled pairs, on frozen features of a small ImageNet network.

    PAIRS_ROOT=pf_willow detkit match match_pf_willow

Time: not measured.
Score: PCK@0.1 on 138 test pairs with two seeds: teacher 52.8 and 53.3, control 53.8 and 55.3, student of the second
round 55.2 and 56.6; with a third seed the gate ended the rounds. See docs/matchme.md.
Data: the folder, data/pf_willow where PAIRS_ROOT names none, holds `images`, `keypoints.json` and `pairs_trn.json`,
`pairs_val.json` and `pairs_test.json`, whose images differ; `detkit.data.pairs.keypoints` describes the files.

Of the training pairs only 20 are used with their key-points; the images of all are the pool. Other 20:
`--set data.train.seed=1`. The weights of the backbone are those that timm publishes; from a file:
`--set model.backbone.pretrained=FILE`.
"""

from _base.match import strong_augmentation

from detkit.config import data_folder

ROOT = data_folder("PAIRS_ROOT", "data/pf_willow")
SIDE = 192


def pairs(split, **options):
    """The pairs of `pairs_<split>.json`."""
    files = dict(annotations=f"{ROOT}/keypoints.json", pairs=f"{ROOT}/pairs_{split}.json")
    return dict(type="KeypointPairs", **files, **options)


config = dict(
    model=dict(
        type="CATs",
        backbone=dict(type="EfficientNetLayers", model="tf_efficientnet_lite0", layers=[8, 11, 15], pretrained=True),
        side=SIDE,
        grid=SIDE // 16,
        appearance_dim=48,
        mlp_ratio=2,
        zero_start=True,
        temperature=0.05,
        input_rule=dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
    ),
    data=dict(
        train=pairs("trn", limit=20, seed=0),
        val=pairs("val"),
        transforms=[
            dict(type="PairColour"),
            dict(type="RandomObjectCrop"),
            dict(type="PairResize", side=SIDE),
            dict(type="PairSwap"),
        ],
        batch_size=8,
        eval_batch_size=8,
        workers=0,
    ),
    optimizer=dict(lr=3e-4, weight_decay=0.05),
    schedule=dict(type="cosine", per_step=True, warmup_steps=20),
    train=dict(max_steps=150, clip_norm=1.0, eval_every=15, draw_samples=0),
    evaluator=dict(type="PCKEvaluator"),
    rounds=dict(
        pool=dict(type="PairImages", pairs=pairs("trn")),
        pairs=300,
        rounds=2,
        min_gain=-0.05,  # 18 validation pairs cannot tell smaller differences from chance
        annotate=dict(confidence=0.3),
        test=pairs("test"),
        control=True,
        student=dict(data=dict(transforms=strong_augmentation(SIDE))),
    ),
)
