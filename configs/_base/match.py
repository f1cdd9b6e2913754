"""CATs and CATs++ with the schedules that they were published with (arXiv 2106.02520, arXiv 2202.06817).

The figures of both papers transfer key-points of the target to the source; `direction="target_to_source"` of the
validation data does the same. Left out is what looks like an oversight in the authors' code: batch norms of the
backbone that keep moving, trained positions of the expected place, and weight decay of norms and positional tables.
"""

from detkit.config import data_folder

# The folders that hold the benchmarks as their archives unpack.
SPAIR = data_folder("SPAIR_ROOT", "data/SPair-71k")
PF_PASCAL = data_folder("PF_PASCAL_ROOT", "data/PF-PASCAL")

RESNET101 = "https://download.pytorch.org/models/resnet101-63fe2227.pth"
LAYERS = dict(spair=[0, 8, 20, 21, 26, 28, 29, 30], pfpascal=[2, 17, 21, 22, 25, 26, 28])


def resnet(layers, trainable=True):
    """ResNet-101 with ImageNet weights."""
    return dict(type="ResNetLayers", depth=101, layers=list(layers), trainable=trainable, pretrained=RESNET101)


def cats(layers=LAYERS["spair"], *, trainable=True, side=256):
    """CATs; with `trainable=False` its backbone stays as it is (on SPair-71k 42.4 instead of 49.9, by the authors)."""
    return dict(type="CATs", backbone=resnet(layers, trainable), side=side, grid=side // 16)


def catspp(*, side=512):
    """CATs++ on all blocks of the last three stages."""
    return dict(type="CATsPlusPlus", backbone=resnet(range(4, 34)), side=side)


def spair(split, **options):
    """A split of SPair-71k: "trn", "val" or "test"."""
    return dict(type="SPair71k", root=SPAIR, split=split, **options)


def pfpascal(split, **options):
    """A split of PF-PASCAL: "trn", "val" or "test"."""
    return dict(type="PFPascal", root=PF_PASCAL, split=split, **options)


def backwards(dataset):
    """The same pairs evaluated from target to source, as the CATs family is."""
    return dict(dataset, direction="target_to_source")


def augmentation(side):
    """What CATs is trained with."""
    return [dict(type="PairColour"), dict(type="RandomObjectCrop"), dict(type="PairResize", side=side)]


def strong_augmentation(side):
    """What students learn from annotated pairs with: besides, warped images with covered key-points (SemiMatch)."""
    more = [dict(type="KeyOut"), dict(type="RandomPairWarp", images=["target"]), dict(type="PairSwap")]
    return augmentation(side) + more


def data(train, val, *, side, batch_size=32):
    """The "data" section; `batch_size` for each GPU, the published 32 on one."""
    return dict(
        train=train,
        val=val,
        transforms=augmentation(side),
        batch_size=batch_size,
        eval_batch_size=16,
        workers=8,
    )


def recipe(model, train, val, *, lr=3e-5, backbone_lr=3e-6, epochs=100, threshold="bbox"):
    """AdamW, halved after 70, 80 and 90 % of the epochs; `threshold` "img" for PF-PASCAL."""
    return dict(
        model=model,
        data=data(train, val, side=model["side"]),
        optimizer=dict(lr=lr, backbone_lr_scale=backbone_lr / lr, weight_decay=0.05),
        schedule=dict(type="step", drop_epochs=[epochs * tenths // 10 for tenths in (7, 8, 9)], factor=0.5),
        train=dict(epochs=epochs, clip_norm=None, seed=2021, log_every=100, checkpoint_every=1000),
        evaluator=dict(type="PCKEvaluator", alphas=[0.1, 0.05, 0.15], threshold=threshold),
    )
