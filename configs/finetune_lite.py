r"""Fine-tune a light detector with an ImageNet body on your images, on a CPU: 256 pixels, boxes only.

    detkit train finetune_lite --out runs/mine --set \
        data.train.annotation_file=train.json data.train.image_folder=train_images \
        data.val.annotation_file=val.json data.val.image_folder=val_images

Time: not measured; depends on your images.
Score: not measured; depends on your images.

The body is EfficientNet-Lite0 with ImageNet weights of timm, downloaded once; `model.backbone.pretrained=FILE` takes
them from a file. Its first layers, which cost most and change least, stay as they are. The heads learn five times as
fast as the body.
"""

from _base.fast import detector, optimizer, schedule
from finetune_cpu import INPUT
from finetune_cpu import config as small

AUGMENT = dict(
    type="DetrAugment",
    shortest=[192, 208, 224, 240, 256, 272, 288],
    longest=384,
    crop_resize=[224, 256, 320],
    crop_size=[160, 256],
)

BODY = dict(
    type="TimmFeatures",
    model="tf_efficientnet_lite0",
    pretrained=True,
    frozen_stride=4,
    num_tokens=100,
    pos_dim=128,
)

config = dict(
    small,
    data=dict(small["data"], transforms=[AUGMENT]),
    model=detector(
        BODY,
        queries=100,
        # These weights were trained on pixels of -1..1.
        input_rule=dict(INPUT, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
    optimizer=optimizer(lr=1e-3, backbone_lr_scale=0.2),
    schedule=schedule(warmup_steps=20),
    train=dict(small["train"], epochs=12, ema=0.98, eval_every=3),
)
