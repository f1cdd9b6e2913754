"""PointWSSIS (arXiv 2303.15062) on COCO: masks on 40 % of the training images, points on the others.

    COCO_ROOT=coco detkit wssis wssis_coco_40p --processes 8

Time: not run here.
Score: not run here; published on COCO test-dev: 38.3 mask AP.
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.

For a student on all true masks beside it add `--set bound=true`; for one student instead of two
`--set "pseudo.students=('refined',)"`.

The authors publish no schedule for 40 %: this one lies half way between those for 30 and 50 %.
"""

from _base.wssis import wssis_coco

config = wssis_coco(40, drops=(165_000, 200_000), steps=215_001, teacher_steps=(140_000, 185_000))
