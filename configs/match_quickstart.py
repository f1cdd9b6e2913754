"""A small matcher on generated pairs, from random weights, over two rounds: MatchMe without any download.

    detkit match match_quickstart

Time: about 13 minutes on one CPU core.
Score: PCK@0.1 on the test pairs, mean of three seeds: nearest neighbours of untrained features 10.3, teacher 55.6,
control 55.6, student of the first round 59.2, of the second 61.9. See docs/matchme.md.

150 labelled pairs of 60 pictures, 400 pictures without labels. To see what students would reach without the latter, as
long and as strongly augmented: `--set rounds.control=True`. Other weights: `train.seed=1`.
"""

pairs = dict(type="SyntheticPairs", size=64)
augmentation = [
    dict(type="PairSwap"),
    dict(type="RandomPairFlip"),
    dict(type="PairColour", probability=0.5, changes=["RandomBrightnessContrast"]),
    dict(type="RandomPairWarp", probability=0.6, rotation=25, shear=5, scale=0.2, shift=0.15, bend=0.1),
]

config = dict(
    model=dict(
        type="CATs",
        backbone=dict(type="ConvLayers", channels=(32, 64, 128), levels=2),
        side=64,
        grid=10,
        appearance_dim=28,
        mlp_ratio=2,
        heads=4,
        temperature=0.05,
        field=9,
    ),
    data=dict(
        train=dict(pairs, length=150, images=60, seed=100),
        val=dict(pairs, length=200, images=400, seed=1),
        transforms=augmentation,
        batch_size=16,
        eval_batch_size=32,
        workers=0,
    ),
    optimizer=dict(lr=1.5e-3, weight_decay=0.05),
    schedule=dict(type="cosine", per_step=True, warmup_steps=50),
    train=dict(max_steps=550, clip_norm=1.0, eval_every=10, draw_samples=0),
    evaluator=dict(type="PCKEvaluator"),
    rounds=dict(
        pool=dict(type="PairImages", pairs=dict(pairs, length=2000, images=400, seed=200)),
        pairs=1600,
        rounds=2,
        test=dict(pairs, length=400, images=800, seed=2),
        # On so coarse a grid few cells are closer than a tenth of an object, and students gain from less.
        gate=0.6,
        annotate=dict(confidence=0.5, minimum=4),
        student=dict(data=dict(transforms=[*augmentation, dict(type="KeyOut")])),
    ),
)
