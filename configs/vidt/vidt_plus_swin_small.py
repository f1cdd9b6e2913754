"""ViDT+ on Swin-small, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 -m detkit train vidt_plus_swin_small

Time: not run here; the published run took 8 GPUs of 2 images.
Score: not run here; published on val2017: 51.2 box AP, 69.5 AP50, 40.8 mask AP, 61 M parameters (naver-ai/vidt).
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("small"), masks=True)
