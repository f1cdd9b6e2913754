"""The published ViDT and ViDT+ models and their recipe (arXiv 2110.03921, appendix A; arXiv 2204.07962)."""

from _base.coco import coco

from detkit.download.published import PUBLISHED

IMAGENET = {size: PUBLISHED[f"swin_{size}"].url for size in ("nano", "tiny", "small", "base")}


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


# Plain ViT-S bodies with self-supervised weights, by their names in timm. DINOv2 has the Apache licence, DINOv3 Meta's.
DINO = dict(v2="vit_small_patch14_dinov2.lvd142m", v3="vit_small_patch16_dinov3.lvd1689m")


def vidt_small(size, *, window, dino="v2", pretrained=True):
    """A detector of ViT-S for images of `size` x `size` pixels: 300 proposals, three decoder layers.

    Patches have 16 pixels; timm resamples the weights and positions of DINOv2, whose patches had 14. Patches attend to
    those of their window, in three of the twelve blocks to all. [DET] tokens look at them in the last block.
    """
    args = dict(img_size=size, patch_size=16) if dino == "v2" else {}
    backbone = dict(
        type="ViT",
        model=DINO[dino],
        model_args=args,
        pretrained=pretrained,
        num_tokens=300,
        window=window,
        global_blocks=[3, 7, 11],
        cross_blocks=[11],
        strides=[16, 32],
        out_channels=128,
        drop_path=0.1,
    )
    rule = dict(shortest=size, longest=size, multiple=16)
    return dict(type="ViDT", backbone=backbone, decoder_layers=3, points=2, proposals=True, input_rule=rule)


def small_recipe(size, *, window, epochs=50, batch_size=4, **options):
    """AdamW at 2e-4, a tenth of it for the body, a moving average; images up to a quarter larger and smaller."""
    sides = [round(size * scale / 16) * 16 for scale in (0.75, 0.875, 1, 1.125, 1.25)]
    crop = dict(crop_resize=sides, crop_size=[size // 2, size])
    return dict(
        model=vidt_small(size, window=window, **options),
        data=dict(
            coco(batch_size=batch_size),
            transforms=[dict(type="DetrAugment", shortest=sides, longest=max(sides), **crop)],
        ),
        optimizer=dict(lr=2e-4, backbone_lr_scale=0.1, weight_decay=1e-4),
        schedule=dict(type="cosine", per_step=True, min_lr=1e-6, warmup_steps=1000),
        train=dict(epochs=epochs, clip_norm=0.1, ema=0.9997, seed=42, log_every=100, checkpoint_every=1000),
        evaluator=dict(type="CocoEvaluator"),
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
