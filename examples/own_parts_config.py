"""A detector from the parts in own_parts.py, trained on generated scenes.

    detkit train examples/own_parts_config.py

Time: about 45 seconds on one CPU core.
Score: box AP 13.0 on 100 other scenes; it is far from converged.
"""

config = dict(
    imports=("own_parts.py",),  # beside this file
    model=dict(
        type="ViDT",
        backbone=dict(type="TinyConvNet", channels=(32, 64, 128), num_tokens=12, pos_dim=64),
        criterion=dict(type="QualityCriterion", beta=2.0),
        hidden_dim=64,
        decoder_layers=2,
        heads=4,
        ffn_dim=128,
        dropout=0.0,
        proposals=True,
        input_rule=dict(shortest=64, longest=64, multiple=1),
    ),
    data=dict(
        train=dict(type="SyntheticScenes", length=1600, size=64, max_objects=3, object_size=(0.3, 0.6), masks=False),
        val=dict(
            type="SyntheticScenes", length=100, seed=1, size=64, max_objects=3, object_size=(0.3, 0.6), masks=False
        ),
        transforms=[dict(type="RandomFlip"), dict(type="RandomErase", probability=0.3)],
        batch_size=16,
        eval_batch_size=20,
        workers=0,
    ),
    optimizer=dict(lr=1e-3),
    schedule=dict(type="cosine", per_step=True, warmup_steps=50),
    train=dict(epochs=5, ema=0.99, log_every=50, draw_samples=4),
    hooks=[dict(type="EpochFiles")],
)
