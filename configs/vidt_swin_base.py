"""ViDT on Swin-base, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 tools/train.py configs/vidt_swin_base.py

Published: 49.4 box AP, 69.6 AP50, 99 M parameters (naver-ai/vidt). The published run took 8 GPUs of 2 images.
COCO is looked for in data/coco; the environment variable COCO_ROOT names another folder.
"""

from _base.vidt import recipe, vidt

config = recipe(vidt("base"))
