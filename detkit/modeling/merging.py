"""One list of detections of several that were found in parts or in copies of one image.

Arrays are float64 on the CPU. Shape letters: n objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAME_IOU = 0.5  # two boxes of one class, as far as both parts of the image show them
COARSE_IOU = 0.3  # the same, where one box lies in the other: a small object seen in the whole image and in a part
INSIDE = 0.6  # the share of a box that another one covers, so that it lies in it
SURE = 0.5  # the share of a better score that makes a whole object as good as a cut one
EDGE = 0.02  # of the side of a part: how near to its edge a box is cut
FUSED_IOU = 0.6
MOST = 1000  # detections of a class in an image, the best ones: merging takes time that grows with their square


@dataclass
class Found:
    """What was found in all parts or copies of an image.

    Attributes:
        boxes: [n, 4] xyxy in pixels of the image.
        scores: [n].
        labels: [n] int.
        parts: [n] int, the part or copy that each was found in.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    parts: np.ndarray


@dataclass
class Merged:
    """An object of the merged list.

    Attributes:
        box: [4] xyxy.
        score: in 0..1.
        members: which of the detections show it; its mask is the union of theirs.
    """

    box: np.ndarray
    score: float
    members: list[int]


def overlap(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Intersection over union, and the share of each box that the other one covers, of boxes [n, 4] or [4]; 0..1."""
    shared = (np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])).clip(0).prod(-1)
    area, areas = ((x[..., 2:] - x[..., :2]).clip(0).prod(-1) for x in (one, other))
    union, area, areas = (np.maximum(size, np.finfo(float).tiny) for size in (area + areas - shared, area, areas))
    return shared / union, shared / area, shared / areas


def merge_parts(found: Found, parts: np.ndarray, size: tuple[int, int]) -> list[Merged]:
    """Make one object of what overlapping parts of an image show of it, class by class; best first.

    Two detections are of one object where they agree about what both parts see: their boxes, cut to the common region
    of the parts. The better one stays, with the box of a smaller part where that is nearly as sure. Of an object that
    is cut by the edge of its part, a whole one stays, or else both pieces together. So nothing is doubled at the seams,
    and two objects side by side stay two.

    Args:
        parts: [p, 4] xyxy, the regions in pixels; the whole image may be one of them.
        size: (h, w) of the image.
    """
    merged: list[Merged] = []
    for label in np.unique(found.labels):
        index = np.flatnonzero(found.labels == label)
        index = index[np.argsort(-found.scores[index], kind="stable")][:MOST]
        merged += _merge_class(index, found, parts[found.parts[index]], size)
    return sorted(merged, key=lambda one: -one.score)


def _merge_class(index: np.ndarray, found: Found, regions: np.ndarray, size: tuple[int, int]) -> list[Merged]:
    """The objects of one class; `index` has its detections, best first, and `regions` [m, 4] their parts."""
    boxes, cut = found.boxes[index], is_cut(found.boxes[index], regions, size)
    left = np.ones(len(index), dtype=bool)
    merged = []
    for first in range(len(index)):
        if not left[first]:
            continue
        left[first] = False
        one = Merged(boxes[first], float(found.scores[index[first]]), [int(index[first])])
        region, is_piece = regions[first], bool(cut[first])
        while len(same := _same(one.box, region, is_piece, boxes, regions, cut, left)):
            left[same] = False
            good = same[found.scores[index[same]] >= SURE * one.score]
            whole = good[~cut[good]]
            better = whole if is_piece else whole[_areas(regions[whole]) < _areas(region)]
            if len(better):
                one.box, one.members = boxes[better[0]], [int(index[better[0]])]
                region, is_piece = regions[better[0]], False
            elif is_piece and len(good):
                one.box, region = _hull(one.box, boxes[good]), _hull(region, regions[good])
                one.members += index[good].tolist()
                is_piece = bool(is_cut(one.box[None], region[None], size)[0])
        merged.append(one)
    return merged


def _same(
    box: np.ndarray,
    region: np.ndarray,
    is_piece: bool,
    boxes: np.ndarray,
    regions: np.ndarray,
    cut: np.ndarray,
    left: np.ndarray,
) -> np.ndarray:
    """Which of the detections that are left show the object of `box`, best first."""
    rest = np.flatnonzero(left)
    low, high = np.maximum(region[:2], regions[rest, :2]), np.minimum(region[2:], regions[rest, 2:])
    common = np.concatenate([low, np.maximum(low, high)], axis=1)
    iou, share, share_of_other = overlap(_cut_to(box[None], common), _cut_to(boxes[rest], common))
    other_region = (regions[rest] != region).any(1)
    agree = (iou > SAME_IOU) | ((iou > COARSE_IOU) & (np.maximum(share, share_of_other) > INSIDE))
    agree |= (cut[rest] & (share_of_other > INSIDE)) | (is_piece & (share > INSIDE))
    return rest[agree & other_region]


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _cut_to(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    low, high = np.maximum(boxes[:, :2], regions[:, :2]), np.minimum(boxes[:, 2:], regions[:, 2:])
    return np.concatenate([low, high], axis=1)


def _hull(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(box[:2], boxes[:, :2].min(0)), np.maximum(box[2:], boxes[:, 2:].max(0))])


def is_cut(boxes: np.ndarray, regions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether each box [n, 4] touches an edge of its region [n, 4] that is no edge of the image: bool [n]."""
    limits = np.array([0, 0, size[1], size[0]], dtype=float)
    sides = np.tile(regions[:, 2:] - regions[:, :2], 2)
    return ((np.abs(boxes - regions) <= EDGE * sides) & (np.abs(regions - limits) > 0)).any(1)


def fuse_copies(found: Found, copies: int) -> list[Merged]:
    """Fuse what was found in `copies` of the whole image, class by class, best first (arXiv 1910.13302).

    An object takes one detection of each copy: its box is their mean by score, its score the sum over all copies
    divided by their number. Its mask is that of the best.
    """
    merged: list[Merged] = []
    for label in np.unique(found.labels):
        index = np.flatnonzero(found.labels == label)
        index = index[np.argsort(-found.scores[index], kind="stable")]
        left = np.ones(len(index), dtype=bool)
        for first in range(len(index)):
            if not left[first]:
                continue
            rest = np.flatnonzero(left)
            iou, *_ = overlap(found.boxes[index[first]], found.boxes[index[rest]])
            near = rest[iou > FUSED_IOU]
            others = near[found.parts[index[near]] != found.parts[index[first]]]
            _, best = np.unique(found.parts[index[others]], return_index=True)
            members = np.concatenate([[first], others[best]])
            left[members] = False
            scores = found.scores[index[members]]
            box = np.average(found.boxes[index[members]], axis=0, weights=np.maximum(scores, np.finfo(float).tiny))
            merged.append(Merged(box, float(scores.sum() / copies), [int(index[first])]))
    return sorted(merged, key=lambda one: -one.score)
