"""PointWSSIS (arXiv 2303.15062) on COCO: masks on 1 % of the training images, points on the others.

    COCO_ROOT=coco detkit wssis wssis_coco_01p --processes 8

Time: not run here.
Score: not run here; published on COCO test-dev: 24.0 mask AP.
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.

For a student on all true masks beside it add `--set bound=true`; for one student instead of two
`--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(1, drops=(5_000, 8_000), steps=10_001, teacher_steps=(5_000, 10_000))
