"""Finding objects in parts of an image (slicing) and in changed copies of it (test-time augmentation).

A *finder* is a function from images, uint8 `[3, h, w]`, to the detections of each, in pixels of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkit.images import image_size
from detkit.modeling.base import InputRule
from detkit.modeling.merging import Found, Merged, fuse_copies, merge_parts
from detkit.ops.boxes import mirror_boxes
from detkit.ops.masks import MaskCrops
from detkit.structures import Detections
from detkit.structures.conversions import regions_of

Finder = Callable[[Sequence[Tensor]], list[Detections]]
Keep = Callable[[Detections], Detections]
COPIES = ((1.0, False), (1.0, True), (0.8, False), (1.25, True))  # scale of the model's input, mirrored or not
OVERLAP = 0.2


def check_slices(side: Any, overlap: Any) -> None:
    """Check the options of slicing; a side of None is no slicing.

    Raises:
        ValueError: a side below 32 pixels or no number, an overlap outside of 0..0.9, or one without a side.
    """
    if side is None:
        if overlap != OVERLAP:
            raise ValueError(f"overlap={overlap!r} is for slices: give slice too, the side of the parts in pixels")
        return
    if isinstance(side, bool) or not isinstance(side, int) or side < 32:
        raise ValueError(f"slice must be the side of the parts in pixels, at least 32, got {side!r}")
    if isinstance(overlap, bool) or not isinstance(overlap, (int, float)) or not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap must be a share of slice in 0..0.9, got {overlap!r}")


def part_places(size: tuple[int, int], side: int, overlap: float) -> np.ndarray:
    """The regions `[p, 4]` xyxy in pixels that cover an image of (h, w) `size`, row by row.

    They are squares of `side`, or as large as the image where that is smaller; neighbours share `overlap` of a side or
    more, evenly spread.
    """
    axes = []
    for length in size:
        part = min(side, length)
        count = 1 + int(np.ceil((length - part) / max(1.0, part * (1 - overlap))))
        starts = np.linspace(0, length - part, count).round()
        axes.append([(start, start + part) for start in starts])
    return np.array([(x1, y1, x2, y2) for y1, y2 in axes[0] for x1, x2 in axes[1]], dtype=float)


def find_sliced(
    find: Finder, image: Tensor, keep: Keep, side: int, overlap: float = OVERLAP, batch_size: int = 1
) -> Detections:
    """The objects of an image, found in the whole and in parts of it; see `merge_parts`.

    Args:
        find: used on the image and on its parts.
        keep: filters the detections of each part, for example by score and class.
        side: of the parts in pixels of the image.
        overlap: the share of a side that neighbours have in common, at least.
        batch_size: parts that go through the model together.
    """
    height, width = size = image_size(image)
    whole = keep(find([image])[0]).cpu()
    if max(size) <= side:
        return whole
    places = part_places(size, side, overlap)
    found = [whole]
    corners = places.astype(int).tolist()
    for start in range(0, len(corners), batch_size):
        parts = [image[:, y1:y2, x1:x2] for x1, y1, x2, y2 in corners[start : start + batch_size]]
        found += [keep(detections).cpu() for detections in find(parts)]
    offsets = [(0, 0), *((x, y) for x, y, _, _ in corners)]
    regions = np.concatenate([[[0, 0, width, height]], places])
    boxes = [one.boxes + one.boxes.new_tensor(offset * 2) for one, offset in zip(found, offsets, strict=True)]
    merged = merge_parts(_together(found, boxes), regions, size)
    return _assemble(merged, found, size, lambda part, region: _moved(region, offsets[part]))


def find_augmented(model: Any, image: Tensor, keep: Keep) -> Detections:
    """The objects of an image, found in mirrored copies and at several input sizes; see `fuse_copies`.

    Args:
        model: an `ImageModel`; its input rule is scaled.
        keep: filters the fused detections, for example by score and class.
    """
    size, found = image_size(image), []
    for scale, mirrored in COPIES:
        copy = image.flip(2) if mirrored else image
        batch = model.as_batch([scaled_rule(model.input_rule, scale).resize(copy.to(model.device))])
        found.append(model.detect(batch, [size])[0].cpu())
    flags = [mirrored for _, mirrored in COPIES]
    boxes = [mirror_boxes(one.boxes, size[1]) if flag else one.boxes for one, flag in zip(found, flags, strict=True)]
    merged = fuse_copies(_together(found, boxes), len(COPIES))
    return keep(_assemble(merged, found, size, lambda part, region: _flipped(region, size[1], flags[part])))


def scaled_rule(rule: InputRule, scale: float) -> InputRule:
    """The input rule for larger or smaller inputs, whose sides stay multiples of `multiple`."""
    shortest, longest = (max(rule.multiple, round(side * scale)) for side in (rule.shortest, rule.longest))
    return replace(rule, shortest=shortest, longest=max(shortest, longest))


Region = tuple[int, int, np.ndarray]


def _moved(region: Region, offset: tuple[int, int]) -> Region:
    top, left, pixels = region
    return top + offset[1], left + offset[0], pixels


def _flipped(region: Region, width: int, mirrored: bool) -> Region:
    top, left, pixels = region
    return (top, width - left - pixels.shape[1], pixels[:, ::-1]) if mirrored else region


def _together(found: Sequence[Detections], boxes: Sequence[Tensor]) -> Found:
    """All that was found in the parts or copies, with `boxes` in pixels of the image."""
    parts = np.repeat(np.arange(len(found)), [len(one) for one in found])
    scores, labels = torch.cat([one.scores for one in found]), torch.cat([one.labels for one in found])
    return Found(torch.cat([*boxes]).double().numpy(), scores.double().numpy(), labels.numpy(), parts)


def _assemble(
    merged: Sequence[Merged], found: Sequence[Detections], size: tuple[int, int], place: Callable[[int, Region], Region]
) -> Detections:
    """The merged objects as detections of an image of (h, w) `size`.

    Args:
        found: what was found in each part or copy, with masks in pixels of it.
        place: moves the region of a mask from the part or copy of that number to the image.
    """
    first = np.cumsum([0, *(len(one) for one in found)])
    labels = torch.cat([one.labels for one in found])
    best = torch.tensor([one.members[0] for one in merged], dtype=torch.int64)
    boxes = torch.from_numpy(np.array([one.box for one in merged]).reshape(-1, 4)).to(found[0].boxes.dtype)
    scores = torch.tensor([one.score for one in merged], dtype=found[0].scores.dtype)
    result = Detections(boxes, scores, labels[best], label_map=found[0].label_map)
    if found[0].stored_masks is not None:
        wanted = np.unique([member for one in merged for member in one.members]).astype(int)
        regions = {}
        for part, one in enumerate(found):
            own = wanted[(wanted >= first[part]) & (wanted < first[part + 1])]
            masks = one.stored_masks[torch.from_numpy(own - first[part])]
            for member, (top, left, pixels) in zip(own.tolist(), regions_of(masks), strict=True):
                regions[member] = place(part, (top, left, pixels.numpy()))
        result.masks = MaskCrops.of_regions(_unions(merged, regions), size)
    return result


def _unions(merged: Sequence[Merged], regions: dict[int, Region]) -> Iterator[Region]:
    """The mask of each merged object: the union of those of its members, in the smallest region around them."""
    for one in merged:
        own = [regions[member] for member in one.members]
        top, left = min(region[0] for region in own), min(region[1] for region in own)
        bottom = max(region[0] + region[2].shape[0] for region in own)
        right = max(region[1] + region[2].shape[1] for region in own)
        pixels = np.zeros((bottom - top, right - left), dtype=bool)
        for y, x, mask in own:
            pixels[y - top : y - top + mask.shape[0], x - left : x - left + mask.shape[1]] |= mask
        yield top, left, pixels
