"""What is to be exported of a model, and its program as `torch.export` traces it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.correspondence.matcher import Matcher
from detkit.exporting.description import LEAST, PLACES, Description
from detkit.exporting.graphs import Graph
from detkit.images import image_size, resized_size
from detkit.modeling.base import Model
from detkit.pointseg.solov2 import SOLOv2

MULTIPLE = 32  # sides of the images of a detector are multiples of it
DYNAMIC = "dynamic"


def describe(
    model: Model, *, size: int | Sequence[int] | str | None, batch: int | str, int8: bool = False, **places: str
) -> Description:
    """The description of an exported model; arguments as of `detkit.exporting.program.export`.

    Raises:
        ValueError: a size, batch or place that cannot be.
    """
    for name, place in places.items():
        if place not in PLACES:
            raise ValueError(f"--{name} {place!r} is neither inside nor outside")
    if batch != DYNAMIC and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"--batch must be a number from 1 or {DYNAMIC}, got {batch}")
    task = "matching" if isinstance(model, Matcher) else "segmentation" if isinstance(model, SOLOv2) else "detection"
    return Description(
        type(model).__name__,
        task,
        model.label_map.to_dict(),
        model.input_rule.to_dict(),
        thresholds=getattr(model, "thresholds", None),
        batch=None if isinstance(batch, str) else batch,
        size=_size_of_pairs(model, size) if isinstance(model, Matcher) else _size_of_images(model, size),
        multiple=1 if isinstance(model, Matcher) else MULTIPLE,
        settings=_settings(model),
        int8=int8,
        **places,
    )


def _size_of_pairs(model: Matcher, size: Any) -> tuple[int, int]:
    if size not in (None, model.side, [model.side], (model.side, model.side), [model.side, model.side]):
        raise ValueError(f"--size {_shown(size)}: a matcher stretches all images to {model.side} x {model.side}")
    return model.side, model.side


def _size_of_images(model: Model, size: Any) -> tuple[int, int] | None:
    if size in (DYNAMIC, [DYNAMIC]):
        if not isinstance(model, SOLOv2):
            raise ValueError(
                f"--size {DYNAMIC}: a {type(model).__name__} is exported for one size, for which its windows and "
                "positions are constants: give --size HEIGHT WIDTH"
            )
        return None
    if size is None:
        size = model.input_rule.shortest + -model.input_rule.shortest % MULTIPLE
    sides = [size] if isinstance(size, int) else list(size)
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 and side % MULTIPLE == 0 for side in sides):
        raise ValueError(
            f"--size {_shown(size)}: give {DYNAMIC}, one side, or height and width, all multiples of {MULTIPLE} pixels"
        )
    return sides[0], sides[1]


def frame_of(model: Model, images: Sequence[Tensor]) -> tuple[int, int]:
    """The smallest (h, w) that holds images `[3, h, w]` as the model's input rule resizes them."""
    rule = model.input_rule
    sizes = [resized_size(image_size(image), rule.shortest, rule.longest, rule.multiple) for image in images]
    height, width = (max(sides) + -max(sides) % MULTIPLE for sides in zip(*sizes, strict=True))
    return height, width


def _shown(size: Any) -> str:
    return str(size) if isinstance(size, (int, str)) else " ".join(map(str, size))


def _settings(model: Any) -> dict[str, Any]:
    """What is needed of a model for the part of its work that is done outside of the graph."""
    if isinstance(model, Matcher):
        positions = {name: getattr(model, name).tolist() for name in ("x_positions", "y_positions")}
        return dict(grid=model.grid, temperature=model.temperature, official=model.official, **positions)
    if isinstance(model, SOLOv2):
        return dict(sides=list(model.grids.sides), postprocess=dict(vars(model.postprocess)))
    return dict(top_k=getattr(model, "top_k", None))


def trace(graph: Graph, description: Description) -> torch.export.ExportedProgram:
    """The program of a graph.

    Raises:
        ValueError: batch or size of this model cannot be dynamic.
    """
    inputs = example_inputs(graph, description)
    shapes = _dynamic_shapes(graph, description)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph(*inputs)  # computes what is constant
        try:
            return torch.export.export(graph, inputs, dynamic_shapes=shapes)
        except Exception as error:
            if shapes is None:
                raise
            wanted = [f"--{name} {DYNAMIC}" for name in ("size", "batch") if getattr(description, name) is None]
            raise ValueError(
                f"{' and '.join(wanted)} cannot be had of this {description.model}: give numbers instead "
                f"({str(error).strip().splitlines()[0][:200]})"
            ) from error


def example_inputs(graph: Graph, description: Description) -> tuple[Tensor, ...]:
    """Noise as inputs."""
    batch = description.batch or 2
    height, width = description.size or (4 * MULTIPLE, 6 * MULTIPLE)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, height, width, generator=generator) * 255
    if graph.inputs == ("source", "target"):
        return images, images.flip(3)
    return images, torch.tensor([[height - 8, width]] * batch)


def _dynamic_shapes(graph: Graph, description: Description) -> tuple[Any, ...] | None:
    batch = {} if description.batch else {0: torch.export.Dim("batch")}
    sides = {}
    if description.size is None:
        sides = {
            2: MULTIPLE * torch.export.Dim("rows", min=LEAST),
            3: MULTIPLE * torch.export.Dim("columns", min=LEAST),
        }
    if not batch and not sides:
        return None
    second = batch | sides if graph.inputs == ("source", "target") else batch
    return batch | sides, second
