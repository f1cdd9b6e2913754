"""PointWSSIS (arXiv 2303.15062) on COCO with 1 % of the training images with masks, points on all others.

    COCO_ROOT=... detkit wssis configs/wssis_coco_01p.py --processes 8

The authors report 24.0 mask AP on COCO test-dev for 1 %; not reproduced here. For the bound (a student on all masks)
add `--set bound=true`; for one student instead of two `--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(1, drops=(5_000, 8_000), steps=10_001, teacher_steps=(5_000, 10_000))
