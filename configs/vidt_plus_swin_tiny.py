"""ViDT+ on Swin-tiny, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 tools/train.py configs/vidt_plus_swin_tiny.py

Published: 49.7 box AP, 67.7 AP50, 39.5 mask AP, 38 M parameters (naver-ai/vidt), on 8 GPUs of 2 images.
COCO is looked for in data/coco; the environment variable COCO_ROOT names another folder.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("tiny"), masks=True)
