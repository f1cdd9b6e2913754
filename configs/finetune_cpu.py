r"""Fine-tune the small detector of the quickstart on your images, on a CPU: 256 pixels, boxes only.

    detkit train quickstart
    detkit train finetune_cpu --out runs/mine --set train.init_from=runs/quickstart/best.safetensors \
        data.train.annotation_file=train.json data.train.image_folder=train_images \
        data.val.annotation_file=val.json data.val.image_folder=val_images

Time: not measured; depends on your images.
Score: 53.2 box AP on BCCD (205 images of blood cells) after 5 minutes of one CPU core; see docs/benchmarks.md.

With `train.init_from` it starts from what the quickstart learned on generated scenes, without from random weights.
"""

from _base.fast import detector, optimizer, schedule

FOLDER = dict(type="CocoDataset", annotation_file=None, image_folder=None)
# Crops of one size: a batch is not padded to the largest of its images.
AUGMENT = dict(
    type="DetrAugment",
    shortest=[256],
    longest=256,
    crop_probability=1.0,
    crop_resize=[224, 256, 288, 320],
    crop_size=[256, 256],
)
INPUT = dict(shortest=256, longest=384, multiple=16)

config = dict(
    model=detector(queries=100, input_rule=INPUT),
    data=dict(train=dict(FOLDER), val=dict(FOLDER), transforms=[AUGMENT], batch_size=8, eval_batch_size=8, workers=1),
    optimizer=optimizer(),
    schedule=schedule(warmup_steps=50),
    train=dict(epochs=20, ema=0.99, eval_every=5, log_every=10),
)
