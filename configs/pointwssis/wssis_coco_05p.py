"""PointWSSIS (arXiv 2303.15062) on COCO: masks on 5 % of the training images, points on the others.

    COCO_ROOT=coco detkit wssis wssis_coco_05p --processes 8

Time: not run here.
Score: not run here; published on COCO test-dev: 33.7 mask AP.
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.

For a student on all true masks beside it add `--set bound=true`; for one student instead of two
`--set "pseudo.students=('refined',)"`.
"""

from _base.wssis import wssis_coco

config = wssis_coco(5, drops=(20_000, 25_000), steps=30_001, teacher_steps=(15_000, 25_000))
