"""COCO 2017 with the paper's augmentation."""

from detkit.config import data_folder

# Holds train2017/, val2017/ and annotations/, as the archives of cocodataset.org unpack.
ROOT = data_folder("COCO_ROOT", "data/coco")


def split(name, **options):
    return dict(
        type="CocoDataset",
        annotation_file=f"{ROOT}/annotations/instances_{name}2017.json",
        image_folder=f"{ROOT}/{name}2017",
        **options,
    )


def coco(batch_size=2, workers=4, **options):
    """Training and validation data; `batch_size` for each GPU, the paper's 16 on 8 of them."""
    return dict(
        train=split("train", **options),
        val=split("val", **options),
        transforms=[dict(type="DetrAugment")],
        batch_size=batch_size,
        eval_batch_size=batch_size,
        workers=workers,
    )
