r"""Fine-tune the small detector of the quickstart on your images, on a CPU, with the masks of ViDT+.

    detkit train quickstart
    detkit train finetune_cpu_masks --out runs/mine --set train.init_from=runs/quickstart/best.safetensors \
        data.train.annotation_file=train.json data.train.image_folder=train_images \
        data.val.annotation_file=val.json data.val.image_folder=val_images

Time: not measured; depends on your images.
Score: not measured; depends on your images.

What is said in finetune_cpu.py counts here too.
"""

from finetune_cpu import FOLDER
from finetune_cpu import config as boxes

MASKS = dict(FOLDER, masks=True)
PARTS = dict(fusion=True, mask_vectors=256, iou_aware=True, token_labels=True)  # those of ViDT+

config = dict(
    boxes,
    model=dict(boxes["model"], **PARTS),
    data=dict(boxes["data"], train=dict(MASKS), val=dict(MASKS)),
    evaluator=dict(type="CocoEvaluator", iou_types=["bbox", "segm"]),
)
