"""ViDT+ on Swin-nano, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 -m detkit train vidt_plus_swin_nano

Time: not run here; the published run took 8 GPUs of 2 images.
Score: not run here; published on val2017: 45.3 box AP, 62.3 AP50, 16 M parameters (naver-ai/vidt).
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.
"""

from _base.vidt import recipe, vidt_plus

config = recipe(vidt_plus("nano"), masks=True)
