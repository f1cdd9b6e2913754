"""Instance segmentation from 50 images with masks and 950 with points, on generated scenes, without download.

    detkit wssis wssis_quickstart

Time: about 12 minutes on one CPU core.
Score: mask AP on 200 other scenes, mean of the seeds 1, 2 and 3 (`--set seed=2`): teacher, which sees the 50 images
only, 3.3; student on its raw masks at the points 8.1; on refined masks 9.1; on the true masks of all images 16.6.

The models start from random weights and are far from converged: what counts is their order. See docs/pointwssis.md.
"""

from _base.wssis import short_run

SOLO = dict(
    type="SOLOv2",
    backbone=dict(
        type="FPN",
        body=dict(
            type="Swin",
            embed_dim=32,
            depths=(1, 1, 2, 1),
            num_heads=(2, 4, 8, 16),
            window=4,
            num_tokens=1,
            pos_dim=64,
            local_positions=True,
        ),
        out_channels=64,
    ),
    num_grids=(12, 10, 8, 6, 4),
    scale_ranges=((1, 24), (16, 40), (32, 64), (48, 96), (64, 2048)),
    instance_channels=64,
    instance_convs=2,
    kernel_channels=64,
    mask_channels=64,
    input_rule=dict(shortest=96, longest=96),
)
RUN = dict(
    optimizer=dict(lr=1e-3),
    data=dict(transforms=[dict(type="RandomFlip")], batch_size=8, eval_batch_size=16),
    warmup=50,
    log_every=100,
)

config = dict(
    seed=1,
    scenes=dict(
        images=1000,
        val_images=200,
        percent=5,
        options=dict(size=96, max_objects=3, object_size=(0.3, 0.65)),
    ),
    teacher=short_run(
        dict(SOLO, postprocess=dict(type="SoloPostprocess", nms="mask")), 600, **RUN, checkpoint_epochs=20
    ),
    refine=dict(
        teacher_steps=(150, 300),
        crops=dict(size=64),
        model=dict(type="MaskRefiner", encoder="resnet18", width=128, size=64, official=True),
        data=dict(batch_size=16, workers=0),
        optimizer=dict(type="Adam", lr=1e-3, weight_decay=0.0),
        schedule=dict(type="cosine", per_step=True, warmup_steps=50),
        train=dict(max_steps=400, clip_norm=None, log_every=100, checkpoint_epochs=10),
    ),
    pseudo=dict(batch_size=16),
    student=short_run(SOLO, 1000, **RUN),
    bound=True,
)
