"""ViDT+ on Swin-nano, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 tools/train.py configs/vidt_plus_swin_nano.py

Published: 45.3 box AP, 62.3 AP50, 16 M parameters (naver-ai/vidt). The published run took 8 GPUs of 2 images.
COCO is looked for in data/coco; the environment variable COCO_ROOT names another folder.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("nano"), masks=True)
