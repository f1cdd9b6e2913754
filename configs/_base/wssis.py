"""PointWSSIS (arXiv 2303.15062) on COCO: SOLOv2 with ResNet-101 as teacher and student, and the published schedules.

One step has 16 images: 2 on each of 8 processes. The paper starts from the ResNet-101 of Detectron, which is not
published as a torch file; these configs start from torchvision's.
"""

from _base.coco import ROOT, split

TRAIN_IMAGES = 118287
TEACHER = dict(
    num_grids="teacher",
    scale_ranges="teacher",
    postprocess=dict(type="SoloPostprocess", nms="mask"),
)
WEIGHTS = "timm:resnet101.tv_in1k"


def solo(depth=101, pretrained=WEIGHTS, **options):
    """SOLOv2 on a ResNet with FPN; without options that of the student."""
    body = dict(type="ResNet", depth=depth, frozen_stages=2, pretrained=pretrained)
    return dict(type="SOLOv2", backbone=dict(type="FPN", body=body), **options)


def run(model, *, lr, drops, steps, warmup, eval_every, batch_size=2):
    """SGD with a warm-up and drops, counted in steps; evaluation every so many epochs."""
    return dict(
        model=model,
        data=dict(
            transforms=[
                dict(type="DetrAugment", shortest=(640, 672, 704, 736, 768, 800), multiple=1, crop_probability=0.0)
            ],
            batch_size=batch_size,
            eval_batch_size=2,
            workers=4,
        ),
        optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=1e-4),
        schedule=dict(type="solo_steps", drop_steps=drops, warmup_steps=warmup),
        train=dict(
            max_steps=steps,
            clip_norm=None,
            eval_every=eval_every,
            log_every=100,
            checkpoint_every=5000,
            checkpoint_epochs=eval_every,
        ),
    )


def short_run(model, steps, *, optimizer, data, warmup, log_every, checkpoint_epochs=1):
    """AdamW with a cosine over a few hundred steps and a moving average, evaluated at the end."""
    return dict(
        model=model,
        data=dict(data, workers=0),
        optimizer=dict(optimizer, weight_decay=1e-4),
        schedule=dict(type="cosine", per_step=True, warmup_steps=warmup),
        train=dict(
            max_steps=steps,
            clip_norm=None,
            ema=0.99,
            eval_every=1000,
            log_every=log_every,
            checkpoint_epochs=checkpoint_epochs,
        ),
    )


def refiner(teacher_steps, *, steps=200_000, warmup=2000, encoder="resnet101", batch_size=2):
    """MaskRefineNet, trained on the masks of two states of the teacher."""
    return dict(
        teacher_steps=teacher_steps,
        model=dict(type="MaskRefiner", encoder=encoder, pretrained=True, official=True),
        data=dict(batch_size=batch_size, workers=4),
        optimizer=dict(type="Adam", lr=1e-4, weight_decay=0.0),
        schedule=dict(type="refine_cosine", warmup_steps=warmup),
        train=dict(max_steps=steps, clip_norm=None, log_every=100, checkpoint_every=5000, checkpoint_epochs=5),
    )


def wssis_coco(percent, *, drops, steps, teacher_steps):
    """All stages for `percent` of COCO with masks; the numbers are those of the teacher."""
    teacher_epoch = TRAIN_IMAGES * percent // 100 // 16
    val = split("val")
    return dict(
        seed=1,
        split=dict(
            annotation_file=f"{ROOT}/annotations/instances_train2017.json",
            image_folder=f"{ROOT}/train2017",
            percent=percent,
            val=val["annotation_file"],
            val_image_folder=val["image_folder"],
        ),
        teacher=run(
            solo(**TEACHER), lr=0.05, drops=drops, steps=steps, warmup=3000, eval_every=max(1, 5000 // teacher_epoch)
        ),
        refine=refiner(teacher_steps),
        student=run(solo(), lr=0.01, drops=(210_000, 250_000), steps=270_000, warmup=1000, eval_every=5),
        bound=False,
    )
