"""The quickstart with a convolutional body instead of Swin: from random weights it learns in far fewer steps.

    detkit train quickstart_conv

Time: not measured.
Score: not measured.
"""

from quickstart import config as quickstart

config = dict(
    quickstart,
    model=dict(
        quickstart["model"],
        backbone=dict(
            type="ConvDet",
            dims=(32, 64, 128, 256),
            depths=(1, 1, 1, 1),
            num_tokens=20,
            pos_dim=128,
        ),
    ),
    optimizer=dict(lr=2e-3, weight_decay=1e-4),
    schedule=dict(type="cosine", per_step=True, min_lr=1e-5, warmup_steps=100),
)
