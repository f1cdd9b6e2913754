"""The ladder of ViDT+ components on generated scenes, small enough for a CPU.

    detkit ablate ablation_quickstart --out runs/ablation

Time: 13 minutes on 2 CPU cores.
Score: from 0.1 box AP without a neck to 17.5 box AP and 11.2 mask AP with all parts; docs/ablation.md has the table.

The ladder of any other ViDT config, on real data and with a GPU:

    detkit ablate vidt_swin_nano --out runs/ablation_coco
"""

from quickstart_swin import config as quickstart

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
