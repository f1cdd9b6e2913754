"""PointWSSIS (arXiv 2303.15062) on COCO with 50 % of the training images with masks, points on all others.

    COCO_ROOT=... detkit wssis configs/wssis_coco_50p.py --processes 8

The authors report 38.8 mask AP on COCO test-dev for 50 %; not reproduced here. For the bound (a student on all masks)
add `--set bound=true`; for one student instead of two `--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(50, drops=(210_000, 250_000), steps=270_001, teacher_steps=(180_000, 240_000))
