"""A small ViDT on generated scenes, from random weights: the first run, without any download.

    detkit train quickstart

Time: about 7 minutes on one or two CPU cores.
Score: 65.5 box AP, 84.8 AP50 on 200 scenes with one thread, 61.4 and 84.3 with two.

Options that the paper has not, and that make it learn in minutes: a convolutional body with [DET] tokens in its last
stage (`ConvDet`), and `proposals`. With the paper's kind of body see quickstart_swin.py.
"""

config = dict(
    model=dict(
        type="ViDT",
        backbone=dict(type="ConvDet", dims=(32, 64, 128, 256), depths=(1, 1, 1, 1), num_tokens=20, pos_dim=128),
        hidden_dim=128,
        decoder_layers=2,
        heads=4,
        ffn_dim=512,
        dropout=0.0,
        proposals=True,
        input_rule=dict(shortest=128, longest=128, multiple=1),
    ),
    data=dict(
        train=dict(type="SyntheticScenes", length=4000, seed=0, masks=False),
        val=dict(type="SyntheticScenes", length=200, seed=1, masks=False),
        transforms=[dict(type="RandomFlip")],
        batch_size=16,
        eval_batch_size=16,
        workers=0,
    ),
    optimizer=dict(lr=2e-3, weight_decay=1e-4),
    schedule=dict(type="cosine", per_step=True, min_lr=1e-5, warmup_steps=100),
    train=dict(epochs=6, clip_norm=0.1, ema=0.995, eval_every=2, log_every=50),
)
