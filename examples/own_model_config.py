"""The detector of own_model.py on boxes from csv files. Copy both files, and write your files and classes here.

detkit train own_model_config.py
"""

NAMES = ["cat", "dog"]

config = dict(
    imports=("own_model.py",),  # beside this file
    model=dict(type="CenterPoints", channels=64, input_rule=dict(shortest=128, longest=192, multiple=8)),
    data=dict(
        train=dict(type="CsvBoxes", csv_file="train.csv", image_folder="images", names=NAMES),
        val=dict(type="CsvBoxes", csv_file="val.csv", image_folder="images", names=NAMES),
        transforms=[dict(type="RandomFlip"), dict(type="Resize", shortest=128, longest=192, multiple=8)],
        batch_size=8,
        eval_batch_size=8,
    ),
    optimizer=dict(lr=1e-3),
    schedule=dict(type="cosine", per_step=True, warmup_steps=50),
    train=dict(epochs=10, clip_norm=1.0, ema=0.99),
)
