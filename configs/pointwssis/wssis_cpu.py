r"""Instance segmentation from a few masks and many points on a CPU, for some hundred images.

    detkit wssis wssis_cpu --out runs/mine --set \
        split.annotation_file=train.json split.image_folder=images split.percent=20 \
        split.val=val.json split.val_image_folder=val_images

Time: half an hour on one CPU core with 130 images of Penn-Fudan.
Score: mask AP on its 40 validation images, one seed: teacher 29.9, student on raw masks 35.0, on refined masks 34.4, on
all true masks 41.1. See docs/pointwssis.md.

Images of 256 pixels, on an EfficientNet-Lite0 with the ImageNet weights that timm publishes; from a file:
`teacher.model.backbone.body.pretrained=FILE student.model.backbone.body.pretrained=FILE refine.model.pretrained=FILE`.
With your own points instead of a split: see wssis_custom.py. To leave out the run on all true masks: `bound=false`.
"""

from _base.wssis import short_run

SOLO = dict(
    type="SOLOv2",
    backbone=dict(
        type="FPN",
        body=dict(type="TimmFeatures", model="tf_efficientnet_lite0", num_tokens=1, pos_dim=64, pretrained=True),
        out_channels=64,
    ),
    num_grids=(16, 14, 12, 8, 6),
    scale_ranges=((1, 48), (32, 80), (64, 128), (96, 192), (128, 2048)),
    instance_channels=64,
    instance_convs=2,
    kernel_channels=64,
    mask_channels=64,
    input_rule=dict(shortest=256, longest=384, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
)
RUN = dict(
    optimizer=dict(lr=5e-4, backbone_lr_scale=0.3),
    data=dict(
        transforms=[dict(type="RandomFlip"), dict(type="Resize", shortest=256, longest=384, multiple=1)],
        batch_size=4,
        eval_batch_size=4,
    ),
    warmup=30,
    log_every=50,
)

config = dict(
    seed=1,
    split=dict(annotation_file=None, image_folder=None, percent=20, val=None, val_image_folder=None),
    teacher=short_run(
        dict(SOLO, postprocess=dict(type="SoloPostprocess", nms="mask")), 250, **RUN, checkpoint_epochs=10
    ),
    refine=dict(
        teacher_steps=(100, 150),
        crops=dict(size=160),
        model=dict(
            type="MaskRefiner",
            encoder="tf_efficientnet_lite0",
            pretrained=True,
            width=128,
            size=160,
            official=True,
        ),
        data=dict(batch_size=8, workers=0),
        optimizer=dict(type="Adam", lr=1e-3, weight_decay=0.0),
        schedule=dict(type="cosine", per_step=True, warmup_steps=30),
        train=dict(max_steps=300, clip_norm=None, log_every=50, checkpoint_epochs=5),
    ),
    pseudo=dict(batch_size=4),
    student=short_run(SOLO, 350, **RUN, checkpoint_epochs=2),
    bound=True,
)
