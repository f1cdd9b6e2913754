"""PointWSSIS (arXiv 2303.15062) on COCO with 2 % of the training images with masks, points on all others.

    COCO_ROOT=... detkit wssis configs/wssis_coco_02p.py --processes 8

The authors report 25.3 mask AP on COCO test-dev for 2 %; not reproduced here. For the bound (a student on all masks)
add `--set bound=true`; for one student instead of two `--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(2, drops=(15_000, 20_000), steps=25_001, teacher_steps=(10_000, 20_000))
