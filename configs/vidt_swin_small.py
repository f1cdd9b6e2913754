"""ViDT on Swin-small, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 tools/train.py configs/vidt_swin_small.py

Published: 47.4 box AP, 67.7 AP50, 60 M parameters (naver-ai/vidt). The published run took 8 GPUs of 2 images.
COCO is looked for in data/coco; the environment variable COCO_ROOT names another folder.
"""

from _base.vidt import recipe, vidt

config = recipe(vidt("small"))
