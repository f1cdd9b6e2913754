"""ViDT on Swin-base, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 -m detkit train vidt_swin_base

Time: not run here; the published run took 8 GPUs of 2 images.
Score: not run here; published on val2017: 49.4 box AP, 69.6 AP50, 99 M parameters (naver-ai/vidt).
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.
"""

from _base.vidt import recipe, vidt

config = recipe(vidt("base"))
