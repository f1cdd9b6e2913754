"""The config of a fine-tuning: a shipped recipe, changed for the data, the device and what training starts from."""

from __future__ import annotations

from typing import Any

from detkit.config import load_config
from detkit.pipelines.finetune.data import TrainingData
from detkit.pipelines.finetune.start import Start, learns_masks
from detkit.registry import ConfigError, accepted_arguments, lookup
from detkit.runtime.components import import_components

# The sides that images may be resized to, in pixels of the shorter one: the first at which three quarters of the
# objects have SMALLEST pixels is taken, else the last.
SIDES = {"cuda": (640, 800, 1024), "cpu": (256, 320, 384, 512)}
SMALLEST = 24  # pixels: three cells of the finest map of most detectors
LEAST_STEPS = 300  # a run of few images gets more epochs until it has so many steps
DEFAULT_TOKENS = 100  # of a backbone, and detections of a ViDT, where its config does not say
# Options of transforms that are sizes in pixels.
SIZES = ("shortest", "longest", "crop_resize", "crop_size", "size")
# A whole detector on a CPU: the recipe `finetune` is for a GPU.
ON_CPU: dict[str, dict[str, Any]] = {
    "data": dict(batch_size=4, eval_batch_size=4, workers=1),
    "optimizer": dict(backbone_lr_scale=0.1),
    "train": dict(epochs=12, ema=0.98, log_every=10, checkpoint_every=None),
}


def make_config(data: TrainingData, start: Start, device: str) -> dict[str, Any]:
    """The config of a run on these data.

    Args:
        device: "cuda" or "cpu", which the sizes of images and batches depend on.
    """
    config = load_config(start.recipe)
    config["model"] = _model(config["model"], start)
    config["train"]["init_from"] = start.weights
    if device == "cpu" and start.recipe in ("finetune", "finetune_masks"):
        for section, options in ON_CPU.items():
            config[section].update(options)
    config["data"]["batch_size"] = min(config["data"]["batch_size"], data.images["train"])
    make_room(config["model"], data.most_objects)
    config = resized(config, choose_side(data, config["model"]["input_rule"], device))
    if not config["schedule"].get("per_step"):
        config["schedule"] = dict(type="cosine", per_step=True, min_lr=1e-6, warmup_steps=50)
    return with_data(config, data)


def with_data(config: dict[str, Any], data: TrainingData) -> dict[str, Any]:
    """The config with these data; masks are read where the model learns them.

    Raises:
        ConfigError: the model learns from masks, and there are none.
    """
    masks = learns_masks(config["model"])
    if masks and not data.has_masks:
        raise ConfigError(f"{data.source}: not every object has a mask, which the model of the config learns from")
    parts = {part: data.dataset(part, masks=masks) for part in ("train", "val")}
    evaluator = dict(type="CocoEvaluator", iou_types=["bbox", "segm"] if masks else ["bbox"])
    return {**config, "data": {**config["data"], **parts}, "evaluator": evaluator}


def _model(own: dict[str, Any], start: Start) -> dict[str, Any]:
    """The model of a recipe with the body of the start; or that of the start, on images of the recipe's size."""
    if start.model is None:
        backbone = {key: value for key, value in own["backbone"].items() if key != "pretrained"}
        return {**own, "backbone": {**backbone, "pretrained": start.body} if start.body else backbone}
    pixels = {name: start.model["input_rule"][name] for name in ("mean", "std")}
    return {**start.model, "input_rule": {**own["input_rule"], **pixels}}


def choose_side(data: TrainingData, rule: dict[str, Any], device: str) -> int:
    """The side for the images: see `SIDES`."""
    stretch = rule["longest"] / rule["shortest"]
    sides = SIDES[device]
    return next((side for side in sides if data.small_side(side, round(side * stretch)) >= SMALLEST), sides[-1])


def resized(config: dict[str, Any], side: int) -> dict[str, Any]:
    """The config for images whose shorter side has `side` pixels; all sizes in transforms change in proportion."""
    rule = config["model"]["input_rule"]
    factor = side / rule["shortest"]
    if factor == 1:
        return config
    rule = {**rule, "shortest": side, "longest": _scaled(rule["longest"], factor)}
    transforms = [_resized_transform(transform, factor) for transform in config["data"]["transforms"]]
    model, data = {**config["model"], "input_rule": rule}, {**config["data"], "transforms": transforms}
    return {**config, "model": model, "data": data}


def _resized_transform(transform: dict[str, Any], factor: float) -> dict[str, Any]:
    import_components()
    known = accepted_arguments(lookup(transform["type"]))
    given = {name: transform.get(name, known[name].default) for name in SIZES if name in known}
    numbers = {name: value for name, value in given.items() if isinstance(value, (int, list, tuple))}
    return {**transform, **{name: _scaled(value, factor) for name, value in numbers.items()}}


def _scaled(value: Any, factor: float) -> Any:
    """Sizes times `factor`, as multiples of 16."""
    if isinstance(value, (list, tuple)):
        return [_scaled(item, factor) for item in value]
    return max(16, round(value * factor / 16) * 16)


def make_room(model: dict[str, Any], objects: int) -> None:
    """Where an image has more objects than a ViDT can find, let it find half as many again as there are."""
    if model["type"] != "ViDT":
        return
    holder, name = (model, "queries") if model.get("queries") else (model["backbone"], "num_tokens")
    wanted = -(-objects * 3 // 2 // 50) * 50
    if objects > (holder.get(name) or DEFAULT_TOKENS):
        holder[name] = wanted
    if objects > (model.get("top_k") or DEFAULT_TOKENS):
        model["top_k"] = wanted
