r"""Instance segmentation from a few masks and many points, on a folder of your own.

From a COCO-format json with masks, of which 10 % are kept and the others reduced to points (to see what points are
worth, or where the json has a `point` for every object: `split.points=given`):

    detkit wssis wssis_custom --out runs/mine --set \
        split.annotation_file=train.json split.image_folder=images split.percent=10 \
        split.val=val.json split.val_image_folder=val_images

From a json of images with masks and a json of images with points, as they were clicked:

    detkit wssis wssis_custom --out runs/mine --set split=none \
        data.strong=masks.json data.weak=points.json data.image_folder=images data.val=val.json

Time: not measured; depends on your images. The steps are for some thousand images on one GPU.
Score: not measured; depends on your images.

Teacher and student start from ImageNet weights, downloaded once; `teacher.model.backbone.body.pretrained=None`
starts from nothing (then also `teacher.model.backbone.body.frozen_norm=false` and `frozen_stages=0` there; the same
for the student, and `refine.model.pretrained=None`).
"""

from _base.wssis import TEACHER, refiner, run, solo

R50 = dict(depth=50, pretrained="timm:resnet50.tv_in1k")

config = dict(
    seed=1,
    split=dict(annotation_file=None, image_folder=None, percent=10, val=None, val_image_folder=None),
    teacher=run(
        solo(**R50, **TEACHER), lr=0.01, drops=(4000, 5500), steps=6000, warmup=500, eval_every=20, batch_size=8
    ),
    refine=refiner((3000, 5000), steps=10_000, warmup=500, encoder="resnet50", batch_size=8),
    student=run(solo(**R50), lr=0.005, drops=(14_000, 18_000), steps=20_000, warmup=500, eval_every=5, batch_size=8),
    bound=False,
)
