"""ViDT on Swin-nano, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 -m detkit train vidt_swin_nano

Time: not run here; the published run took 8 GPUs of 2 images.
Score: not run here; published on val2017: 40.4 box AP, 59.9 AP50, 15 M parameters (naver-ai/vidt).
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.
"""

from _base.vidt import recipe, vidt

config = recipe(vidt("nano"))
