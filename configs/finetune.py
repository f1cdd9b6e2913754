r"""Fine-tune ViDT on a folder of images with a COCO-format json.

    detkit train finetune --out runs/mine --set \
        data.train.annotation_file=train.json data.train.image_folder=train_images \
        data.val.annotation_file=val.json data.val.image_folder=val_images

Time: not measured; depends on your images. It is meant for a GPU.
Score: not measured; depends on your images.

Class names and their number come from the json. The backbone starts from ImageNet weights, downloaded once;
`model.backbone.pretrained=FILE` takes them from a file, `model.backbone.pretrained=None` starts from nothing.
Smaller and faster: `model.backbone.variant=nano data.transforms.0.shortest="[320,352,384,416,448,480]"
data.transforms.0.longest=800 model.input_rule.shortest=480 model.input_rule.longest=800`.
"""

from _base.vidt import recipe, vidt

FOLDER = dict(type="CocoDataset", annotation_file=None, image_folder=None)

config = recipe(vidt("tiny"), epochs=50)
config["model"]["input_rule"] = dict(shortest=800, longest=1333)
config["data"].update(train=dict(FOLDER), val=dict(FOLDER))
config["train"].update(ema=0.999)
