"""Pipelines of albumentations, which is imported when it is used."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from detkit.data.transforms.basic import Sample, drop_empty_masks
from detkit.ops.masks import MaskCrops
from detkit.registry import register, suggest
from detkit.registry.ranges import AsIs, PositiveShare
from detkit.structures import Annotations

Steps = Annotated[Sequence[dict[str, Any]], MinLen(1), AsIs()]


@cache
def import_albumentations(user: str, instead: str = "") -> ModuleType:
    """The module albumentations, for the transform `user`; the error names it, and what to use `instead`."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    try:
        import albumentations
    except ImportError as error:
        raise ImportError(f"{user} needs albumentations: pip install albumentations{instead}") from error
    import cv2

    cv2.setNumThreads(0)  # the data workers are the parallel part
    return albumentations


@register
class Albumentations:
    """A pipeline of albumentations, for example `pipeline=[dict(type="HueSaturationValue", p=0.5)]`.

    Where it moves pixels, boxes, masks and points move with them. An object with a mask then has the box around its
    mask; one whose box or mask becomes empty is dropped. All randomness comes from the sample's generator.

    Args:
        pipeline: the steps in their order. Each is a dict with the name of a class in albumentations as `type` and its
            arguments. Those that choose among steps (`OneOf`, `SomeOf`, ...) take them as `transforms`. Steps that
            normalise or make tensors do not belong here: the model does that itself.
        until: the share of the training in which it is used.

    Raises:
        ValueError: an unknown step, or an unknown or wrong argument.
        ImportError: albumentations is not installed.
    """

    def __init__(self, pipeline: Steps, *, until: PositiveShare = 1.0):
        module = import_albumentations("Albumentations")
        steps = [build_step(step, f"pipeline.{number}") for number, step in enumerate(pipeline)]
        self.until, self.moves = until, any(map(_moves_pixels, steps))
        rules: dict[str, Any] = {}
        if self.moves:
            clipped = dict(clip=True, filter_invalid_bboxes=True, label_fields=["index"])
            rules["bbox_params"] = module.BboxParams("pascal_voc", **clipped)
            rules["keypoint_params"] = module.KeypointParams("xy", remove_invisible=False)
        self.compose = module.Compose(steps, **rules)

    def __call__(self, image: Tensor, annotations: Annotations, rng: np.random.Generator) -> Sample:
        targets = _targets(annotations) if self.moves else {}
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        self.compose.set_random_seed(int(rng.integers(1 << 31)))
        try:
            result = self.compose(image=pixels, **targets)
        except Exception as error:  # steps raise all kinds of errors, for example for images that are too small
            where = f"{annotations.file_name}: " if annotations.file_name else ""
            raise ValueError(f"{where}a step of albumentations failed: {str(error) or type(error).__name__}") from error
        found = result["image"]
        if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
            kind = f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}"
            raise ValueError(
                f"the pipeline of albumentations must give an image of uint8 [h, w, 3], it gave {kind}: leave out "
                f"steps that normalise or make tensors, the model does that itself"
            )
        moved = torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))
        return moved, _moved(annotations, result, found.shape[:2]) if self.moves else annotations


def build_step(step: Any, path: str) -> Any:
    """A step of a pipeline, built of its dict.

    Raises:
        ValueError: it is unknown, or has unknown or wrong arguments; the message begins with `path`.
    """
    if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
        raise ValueError(f"{path}: expected a dict with the name of a class in albumentations as 'type', got {step!r}")
    name, known = step["type"], step_classes()
    if name not in known:
        raise ValueError(f"{path}: albumentations has no step {name!r}{suggest(name, known)}")
    arguments = {key: value for key, value in step.items() if key != "type"}
    valid = inspect.signature(known[name]).parameters
    for key in arguments:
        if key not in valid:  # albumentations itself only warns
            raise ValueError(f"{path}: unknown argument {key!r} of {name}{suggest(key, valid)}")
    if "transforms" in valid:
        inner = arguments.get("transforms")
        if not isinstance(inner, Sequence) or isinstance(inner, str) or not inner:
            raise ValueError(f"{path}: {name} needs a list of steps as 'transforms', got {inner!r}")
        arguments["transforms"] = [build_step(item, f"{path}.transforms.{i}") for i, item in enumerate(inner)]
    try:
        return known[name](**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} ({name}): {_first_problem(error)}") from error


@cache
def step_classes() -> dict[str, type]:
    """The classes of albumentations that a pipeline may name."""
    module = import_albumentations("Albumentations")
    bases = (module.ImageOnlyTransform, module.DualTransform, module.BaseCompose)
    left_out = {*bases, module.Compose, module.ReplayCompose, module.Transform3D}
    classes = {name: value for name, value in vars(module).items() if inspect.isclass(value) and value not in left_out}
    return {name: value for name, value in classes.items() if issubclass(value, bases)}


def _first_problem(error: Exception) -> str:
    """The first line of an error, or the first problem that pydantic found."""
    if callable(errors := getattr(error.__cause__ or error, "errors", None)):
        problem = errors()[0]
        return f"{problem['loc'][0] if problem['loc'] else 'its arguments'}: {problem['msg']}"
    return str(error).partition("\n")[0]


def _moves_pixels(step: Any) -> bool:
    """Whether a step, or one among which it chooses, changes more than the values of pixels."""
    inner = getattr(step, "transforms", None)
    return any(map(_moves_pixels, inner)) if inner else not isinstance(step, _image_only())


@cache
def _image_only() -> type:
    return import_albumentations("Albumentations").ImageOnlyTransform


def _targets(annotations: Annotations) -> dict[str, Any]:
    """What albumentations is given beside the image."""
    targets: dict[str, Any] = {"bboxes": annotations.boxes.numpy(), "index": np.arange(len(annotations))}
    points = annotations.points
    targets["keypoints"] = np.zeros((0, 2), np.float32) if points is None else points.numpy()
    if annotations.mask_crops is not None and len(annotations):
        targets["masks"] = annotations.mask_crops.dense().numpy().view(np.uint8)
    return targets


def _moved(annotations: Annotations, result: dict[str, Any], size: tuple[int, int]) -> Annotations:
    """The annotations of a moved image of `size` (h, w)."""
    keep = torch.as_tensor(np.asarray(result["index"], dtype=np.int64))
    boxes = torch.as_tensor(np.asarray(result["bboxes"], dtype=np.float32)).reshape(-1, 4)
    points = annotations.points
    if points is not None:
        points = torch.as_tensor(np.asarray(result["keypoints"], dtype=np.float32)).reshape(-1, 2)[keep]
    moved = replace(annotations, boxes=boxes, labels=annotations.labels[keep], masks=None, points=points)
    if annotations.mask_crops is None:
        return moved
    masks = MaskCrops.of_masks((np.asarray(result["masks"][i]) > 0 for i in keep.tolist()), size)
    return drop_empty_masks(replace(moved, boxes=masks.boxes(), masks=masks))
