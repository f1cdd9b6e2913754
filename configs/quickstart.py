"""A small ViDT on generated scenes, from random weights: the first run, without any download.

    detkit train quickstart

Time: about 7 minutes on one or two CPU cores.
Score: 65.5 box AP, 84.8 AP50 on 200 scenes with one thread, 61.4 and 84.3 with two.

Options that the paper has not, and that make it learn in minutes: a convolutional body with [DET] tokens in its last
stage (`ConvDet`), and `proposals`. With the paper's kind of body see quickstart_swin.py.
"""

from _base.fast import detector, optimizer, schedule

config = dict(
    model=detector(input_rule=dict(shortest=128, longest=128, multiple=1)),
    data=dict(
        train=dict(type="SyntheticScenes", length=4000, seed=0, masks=False),
        val=dict(type="SyntheticScenes", length=200, seed=1, masks=False),
        transforms=[dict(type="RandomFlip")],
        batch_size=16,
        eval_batch_size=16,
        workers=0,
    ),
    optimizer=optimizer(),
    schedule=schedule(warmup_steps=100),
    train=dict(epochs=6, clip_norm=0.1, ema=0.995, eval_every=2, log_every=50),
)
