"""The same as configs/finetune_cpu.py with masks: the parts of ViDT+ on the small detector of the quickstart.

    python tools/train.py configs/finetune_cpu_masks.py --out runs/mine --set \\
        data.train.annotation_file=train.json data.train.image_folder=train_images \\
        data.val.annotation_file=val.json data.val.image_folder=val_images
"""

from finetune_cpu import FOLDER
from finetune_cpu import config as boxes

MASKS = dict(FOLDER, masks=True)

config = dict(
    boxes,
    model=dict(boxes["model"], fusion=True, mask_vectors=256, iou_aware=True, token_labels=True),
    data=dict(boxes["data"], train=dict(MASKS), val=dict(MASKS)),
    evaluator=dict(type="CocoEvaluator", iou_types=["bbox", "segm"]),
)
