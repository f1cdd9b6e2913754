r"""Fine-tune a light detector with an ImageNet body on your images, on a CPU: 256 pixels, with the masks of ViDT+.

    detkit train finetune_lite_masks --out runs/mine --set \
        data.train.annotation_file=train.json data.train.image_folder=train_images \
        data.val.annotation_file=val.json data.val.image_folder=val_images

Time: not measured; depends on your images.
Score: not measured; depends on your images.

What is said in finetune_lite.py counts here too.
"""

from finetune_cpu_masks import MASKS, PARTS
from finetune_lite import config as boxes

config = dict(
    boxes,
    model=dict(boxes["model"], **PARTS),
    data=dict(boxes["data"], train=dict(MASKS), val=dict(MASKS)),
    evaluator=dict(type="CocoEvaluator", iou_types=["bbox", "segm"]),
)
