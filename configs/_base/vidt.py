"""The published ViDT and ViDT+ models and their recipe (arXiv 2110.03921, appendix A; arXiv 2204.07962)."""

from _base.coco import coco

SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
IMAGENET = dict(
    nano="https://github.com/naver-ai/vidt/releases/download/v0.1-swin/swin_nano_patch4_window7_224.pth",
    tiny=SWIN + "swin_tiny_patch4_window7_224.pth",
    small=SWIN + "swin_small_patch4_window7_224.pth",
    base=SWIN + "swin_base_patch4_window7_224_22k.pth",
)


def vidt(variant):
    """ViDT with 100 det tokens on an ImageNet Swin."""
    return dict(type="ViDT", backbone=dict(type="Swin", variant=variant, pretrained=IMAGENET[variant]))


def vidt_plus(variant):
    """ViDT+ with 300 det tokens on an ImageNet Swin: fusion, instance masks and the two further losses."""
    return dict(
        type="ViDT",
        backbone=dict(type="Swin", variant=variant, pretrained=IMAGENET[variant], num_tokens=300),
        fusion=True,
        mask_vectors=256,
        iou_aware=True,
        token_labels=True,
    )


def recipe(model, *, epochs=50, masks=False):
    """AdamW at 1e-4, cosine over the epochs, clipping at 0.1, 16 images a step; `masks` for models that learn them."""
    return dict(
        model=model,
        data=coco(masks=masks),
        optimizer=dict(lr=1e-4, weight_decay=1e-4),
        schedule=dict(type="cosine", min_lr=1e-7, official=True),
        train=dict(epochs=epochs, clip_norm=0.1, seed=42, log_every=100, checkpoint_every=1000),
        evaluator=dict(type="CocoEvaluator", iou_types=("bbox", "segm") if masks else ("bbox",)),
    )
