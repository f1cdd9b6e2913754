"""Changes of a recipe that `benchmark_learning.py --vary` measures: a part of it switched off, or another one added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
RESIZING = ("DetrAugment", "Resize")


def changed(section: str, **options: Any) -> Callable[[Config], Config]:
    """The config with other options in a section."""
    return lambda config: {**config, section: {**config[section], **options}}


def without_proposals(config: Config) -> Config:
    """Learned reference points, and a det token in the body for each query."""
    model = dict(config["model"], proposals=False)
    if queries := model.pop("queries", None):
        model["backbone"] = dict(model["backbone"], num_tokens=queries)
    return {**config, "model": model}


def without_crops(config: Config) -> Config:
    """Images that are flipped and resized as in evaluation, not cropped at random scales."""
    rule = {key: value for key, value in config["model"]["input_rule"].items() if key not in ("mean", "std")}
    return changed("data", transforms=[dict(type="RandomFlip"), dict(type="Resize", **rule)])(config)


def with_first(**transform: Any) -> Callable[[Config], Config]:
    """A transform before the others."""
    return lambda config: changed("data", transforms=[transform, *config["data"]["transforms"]])(config)


def with_last(**transform: Any) -> Callable[[Config], Config]:
    """A transform after the others."""
    return lambda config: changed("data", transforms=[*config["data"]["transforms"], transform])(config)


def with_mosaic(config: Config) -> Config:
    """Mosaics: twice as large as images where they are resized afterwards."""
    side, transforms = config["model"]["input_rule"]["shortest"], config["data"]["transforms"]
    if any(transform["type"] in RESIZING for transform in transforms):
        return with_first(type="Mosaic", side=2 * side, scale=[0.75, 1.75])(config)
    return with_last(type="Mosaic", side=side, scale=[0.5, 1.0])(config)


def with_denoising(config: Config) -> Config:
    """Twice as many denoising queries as det tokens where these are all queries, else as many as queries."""
    model = config["model"]
    return changed("model", denoising=model.get("queries") or 2 * model["backbone"]["num_tokens"])(config)


COLOUR = [dict(type="HueSaturationValue", p=0.5), dict(type="RandomBrightnessContrast", p=0.5)]

VARIANTS: dict[str, Callable[[Config], Config]] = {
    "without_start": changed("train", init_from=None),
    "without_average": changed("train", ema=None),
    "without_warmup": changed("schedule", warmup_steps=0),
    "without_proposals": without_proposals,
    "without_crops": without_crops,
    "with_mosaic": with_mosaic,
    "with_mixup": with_last(type="MixUp", probability=0.3),
    "with_copy_paste": with_first(type="CopyPaste", objects=[1, 8]),
    "with_scale_jitter": with_first(type="ScaleJitter", scale=[0.6, 1.6], probability=0.5),
    "with_colour": with_last(type="Albumentations", pipeline=COLOUR),
    "with_denoising": with_denoising,
}
