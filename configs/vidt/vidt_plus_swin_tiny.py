"""ViDT+ on Swin-tiny, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 -m detkit train vidt_plus_swin_tiny

Time: not run here; the published run took 8 GPUs of 2 images.
Score: not run here; published on val2017: 49.7 box AP, 67.7 AP50, 39.5 mask AP, 38 M parameters (naver-ai/vidt).
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("tiny"), masks=True)
