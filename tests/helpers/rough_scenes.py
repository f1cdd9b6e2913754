"""A small set of images with true masks, and rough masks that are too large or shifted."""

import json

import numpy as np
from PIL import Image

from detkit.ops.rle import encode_masks

CATEGORIES = [dict(id=3, name="disc"), dict(id=7, name="square")]
HEIGHT, WIDTH = 72, 96


def shapes(rng):
    """A disc on the left and a square on the right: masks and their category ids."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = []
    for left in (6, 54):
        cy, cx, radius = rng.integers(22, HEIGHT - 22), left + rng.integers(16, 24), rng.integers(9, 15)
        distance = np.maximum(abs(y - cy), abs(x - cx)) if left > 6 else np.hypot(y - cy, x - cx)
        masks.append(distance < radius)
    return np.stack(masks), [3, 7]


def roughen(masks, rng):
    """Each mask as the box around it, moved by a few pixels."""
    rough = np.zeros_like(masks)
    for mask, out in zip(masks, rough, strict=True):
        rows, columns = np.nonzero(mask)
        (dy, dx), grown = rng.integers(-2, 3, 2), 3
        out[
            max(0, rows.min() + dy - grown) : rows.max() + dy + grown,
            max(0, columns.min() + dx - grown) : columns.max() + dx + grown,
        ] = True
    return rough


def point_of(mask):
    rows, columns = np.nonzero(mask)
    return [float(columns.mean()), float(rows.mean())]


def prediction(image_id, category_id, mask, point, **more):
    (rle,) = encode_masks(mask[None])
    rows, columns = np.nonzero(mask)
    low = [int(v.min()) if len(v) else 0 for v in (columns, rows)]
    high = [int(v.max()) if len(v) else 0 for v in (columns, rows)]
    box = [low[0], low[1], high[0] - low[0], high[1] - low[1]]
    return dict(image_id=image_id, category_id=category_id, bbox=box, score=0.9, segmentation=rle, point=point) | more


def write_scenes(folder, number=8, seed=0):
    """Write `strong.json`, `rough.json` and the images into `folder`, and return it."""
    rng = np.random.default_rng(seed)
    images, annotations, predictions = [], [], []
    for image_id in range(1, number + 1):
        masks, category_ids = shapes(rng)
        pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3))
        for mask, colour in zip(masks, ([200, 60, 40], [40, 90, 210]), strict=True):
            pixels[mask] += np.array(colour)
        name = f"{image_id}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
        images.append(dict(id=image_id, file_name=name, height=HEIGHT, width=WIDTH))
        for mask, rough, rle, category_id in zip(
            masks, roughen(masks, rng), encode_masks(masks), category_ids, strict=True
        ):
            point, number_of = point_of(mask), len(annotations) + 1
            box = prediction(image_id, category_id, mask, point)["bbox"]
            box = [box[0], box[1], box[2] + 1, box[3] + 1]
            annotations.append(
                dict(id=number_of, image_id=image_id, category_id=category_id, bbox=box, segmentation=rle)
                | dict(area=int(mask.sum()), iscrowd=0)
            )
            predictions.append(prediction(image_id, category_id, rough, point, annotation_id=number_of))
    (folder / "strong.json").write_text(json.dumps(dict(images=images, annotations=annotations, categories=CATEGORIES)))
    (folder / "rough.json").write_text(json.dumps(predictions))
    return folder


def refine_crops(folder, **options):
    return dict(
        type="RefineCrops",
        predictions=[str(folder / "rough.json")],
        annotation_file=str(folder / "strong.json"),
        image_folder=str(folder),
    ) | dict(options)


def refine_config(folder, **train):
    """A config that trains a small refine net in seconds."""
    return dict(
        model=dict(type="MaskRefiner", encoder="plain", width=32, size=32),
        data=dict(
            train=refine_crops(folder, size=32), val=refine_crops(folder), batch_size=4, eval_batch_size=3, workers=0
        ),
        optimizer=dict(type="Adam", lr=1e-3, weight_decay=0.0),
        schedule=dict(type="refine_cosine", warmup_steps=2),
        train=dict(epochs=2, device="cpu", tensorboard=False, draw_samples=0, clip_norm=None, eval_every=100) | train,
        evaluator=dict(type="RefineEvaluator"),
    )
