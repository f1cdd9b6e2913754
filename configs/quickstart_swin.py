"""The quickstart with a small Swin, the kind of body that the paper has: from random weights it learns more slowly.

    detkit train quickstart_swin

Time: about 10 minutes on one CPU core.
Score: 43.0 box AP, 60.9 AP50 on 200 scenes; other machines differ a little.

Options that the paper has not, and that make it learn in minutes: `proposals` and `local_positions`.
"""

from quickstart import config as quickstart

config = dict(
    quickstart,
    model=dict(
        quickstart["model"],
        backbone=dict(
            type="Swin",
            embed_dim=32,
            depths=(1, 1, 2, 1),
            num_heads=(2, 4, 8, 16),
            window=4,
            num_tokens=20,
            pos_dim=128,
            local_positions=True,
        ),
    ),
    optimizer=dict(lr=1e-3, weight_decay=1e-4),
    # Far from converged, it learns most at the full rate; a cosine over as many steps reaches less.
    schedule=dict(type="step", drop_epochs=[5], factor=0.1, warmup_steps=100),
)
