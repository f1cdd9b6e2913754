"""ViDT+ on Swin-base, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 tools/train.py configs/vidt_plus_swin_base.py

Published: 53.2 box AP, 71.6 AP50, 100 M parameters (naver-ai/vidt). The published run took 8 GPUs of 2 images.
COCO is looked for in data/coco; the environment variable COCO_ROOT names another folder.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("base"), masks=True)
