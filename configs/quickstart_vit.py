"""The quickstart with a plain ViT as backbone: only the `backbone` differs from quickstart_swin.py.

    detkit train quickstart_vit

Time: not measured.
Score: not measured.
Needs timm: pip install "detkit[timm]".
"""

from quickstart_swin import config as quickstart

config = dict(
    quickstart,
    model=dict(
        quickstart["model"],
        backbone=dict(
            type="ViT",
            model="vit_tiny_patch16_224",
            model_args=dict(patch_size=8, img_size=128, embed_dim=128, depth=6, num_heads=4),
            num_tokens=20,
            pos_dim=128,
            out_channels=128,
        ),
    ),
)
