r"""Fine-tune ViDT+ (boxes and masks) on a folder of images with a COCO-format json that has segmentations.

    detkit train finetune_masks --out runs/mine --set \
        data.train.annotation_file=train.json data.train.image_folder=train_images \
        data.val.annotation_file=val.json data.val.image_folder=val_images

Time: not measured; depends on your images. It is meant for a GPU.
Score: not measured; depends on your images.

See finetune.py for the options.
"""

from _base.vidt import recipe, vidt_plus

FOLDER = dict(type="CocoDataset", annotation_file=None, image_folder=None, masks=True)

config = recipe(vidt_plus("tiny"), epochs=50, masks=True)
config["model"]["input_rule"] = dict(shortest=800, longest=1333)
config["data"].update(train=dict(FOLDER), val=dict(FOLDER))
config["train"].update(ema=0.999)
