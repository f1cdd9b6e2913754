"""ViDT on a plain ViT-S with DINOv2 weights, images of 384 pixels, 50 epochs of COCO 2017.

    torchrun --nproc-per-node 4 -m detkit train vidt_small_384

Time: not run.
Score: not measured; no AP is claimed. How long an image takes stands in docs/choosing.md.
Data: COCO 2017 in data/coco, or in the folder that the environment variable COCO_ROOT names.
Needs timm: pip install "detkit[timm]". With dino="v3" the body starts from DINOv3 instead.
"""

from _base.vidt import small_recipe

config = small_recipe(384, window=12)
