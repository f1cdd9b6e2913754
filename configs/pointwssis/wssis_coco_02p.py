"""PointWSSIS (arXiv 2303.15062) on COCO: masks on 2 % of the training images, points on the others.

    COCO_ROOT=coco detkit wssis wssis_coco_02p --processes 8

Time: not run here.
Score: not run here; published on COCO test-dev: 25.3 mask AP.
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.

For a student on all true masks beside it add `--set bound=true`; for one student instead of two
`--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(2, drops=(15_000, 20_000), steps=25_001, teacher_steps=(10_000, 20_000))
