"""ViDT+ on Swin-small, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 tools/train.py configs/vidt_plus_swin_small.py

Published: 51.2 box AP, 69.5 AP50, 40.8 mask AP, 61 M parameters (naver-ai/vidt), on 8 GPUs of 2 images.
COCO is looked for in data/coco; the environment variable COCO_ROOT names another folder.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("small"), masks=True)
