"""Short name of vidt/vidt_plus_swin_base.py: ViDT+ on Swin-base, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 8 -m detkit train vidt_plus_swin_b

Time: not run here; the published run took 8 GPUs of 2 images.
Score: not run here; published on val2017: 53.2 box AP, 71.6 AP50, 100 M parameters (naver-ai/vidt).

Commands know the other published models by short names as well: vidt_swin_n, vidt_plus_swin_t, ...
"""

from vidt_plus_swin_base import config

__all__ = ["config"]
