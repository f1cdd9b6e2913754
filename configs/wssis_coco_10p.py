"""PointWSSIS (arXiv 2303.15062) on COCO with 10 % of the training images with masks, points on all others.

    COCO_ROOT=... detkit wssis configs/wssis_coco_10p.py --processes 8

The authors report 35.8 mask AP on COCO test-dev for 10 %; not reproduced here. For the bound (a student on all masks)
add `--set bound=true`; for one student instead of two `--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(10, drops=(35_000, 40_000), steps=45_001, teacher_steps=(30_000, 40_000))
