"""The ladder of ViDT+ components on generated scenes, small enough for a CPU.

    python tools/ablate.py configs/ablation_quickstart.py --out runs/ablation

Two minutes a row on 2 CPU cores. docs/ablation.md keeps a table that it made. On real data, with a GPU:

    python tools/ablate.py configs/vidt_swin_nano.py --out runs/ablation_coco
"""

from quickstart import config as quickstart

config = dict(
    quickstart,
    data=dict(
        quickstart["data"],
        train=dict(type="SyntheticScenes", length=4000, seed=0),
        val=dict(type="SyntheticScenes", length=200, seed=1),
    ),
    schedule=dict(type="constant", warmup_steps=100),
    train=dict(epochs=2, clip_norm=0.1, ema=0.99, eval_every=2, log_every=50, draw_samples=4),
)
