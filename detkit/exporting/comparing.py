"""Comparing an exported model with the original, number by number."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detkit.exporting.description import Description
from detkit.exporting.exported import ExportedMatcher, ExportedModel
from detkit.images import image_size
from detkit.inference.pairs import grid_points
from detkit.modeling.base import Model
from detkit.structures import Detections, ImageBatch

ROUNDS = 3  # of the timing
FAR = 1e6  # times the tolerance, of what cannot be paired
FEW_PIXELS = 2  # by which masks may differ, however small they are


@dataclass(frozen=True)
class Tolerance:
    """How far an exported model may be from the original.

    Attributes:
        pixels: of the sides of boxes and of matched points.
        score: of scores and confidences.
        mask_iou: at least this, or no more than `FEW_PIXELS` different pixels.
        least: score from which a detection must have an equal.
    """

    pixels: float = 0.5
    score: float = 1e-3
    mask_iou: float = 0.99
    least: float = 0.0


@dataclass(frozen=True)
class End:
    """Where the list of an image's detections ends, so that rounding decides on what is left out.

    Attributes:
        longest: of a list this long the next detections were cut off.
        score: below it a detection is dropped.
    """

    longest: int
    score: float = 0.0


INT8 = Tolerance(pixels=8.0, score=0.1, mask_iou=0.8, least=0.3)


@dataclass
class Comparison:
    """What was found.

    Attributes:
        pixels, score, mask_iou: the largest differences of boxes or points, and of scores, and the lowest IoU of masks.
        compared: how many detections or points.
        problems: one line for each image that is not within the tolerance.
        milliseconds: of the original and of the exported model, wall-clock and CPU time: medians for one image.
    """

    pixels: float = 0.0
    score: float = 0.0
    mask_iou: float = 1.0
    compared: int = 0
    problems: list[str] = field(default_factory=list)
    milliseconds: dict[str, tuple[float, float]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The numbers as text."""
        masks = f", IoU of masks at least {self.mask_iou:.4f}" if self.mask_iou < 1 else ""
        differences = f"boxes differ by up to {self.pixels:.2g} pixels, scores by {self.score:.2g}{masks}"
        (own, own_cpu), (new, new_cpu) = self.milliseconds["original"], self.milliseconds["exported"]
        return [
            f"{self.compared} predictions compared: {differences}",
            f"latency on {torch.get_num_threads()} threads: original {own:.0f} ms (CPU {own_cpu:.0f} ms), exported "
            f"{new:.0f} ms (CPU {new_cpu:.0f} ms): {own_cpu / new_cpu:.2f} times",
        ]


def compare(original: Model, exported: ExportedModel, images: Sequence[Any], tolerance: Tolerance) -> Comparison:
    """Let both models predict each image, or match each pair, at the same input, and compare and time them."""
    comparison = Comparison()
    runs = [_runs(original, exported, image) for image in images]
    end = _end_of(exported.description)
    for number, (own, new) in enumerate(runs, 1):
        with torch.inference_mode():
            difference = _difference(own(), new(), tolerance, end)
        comparison.compared += difference.compared
        comparison.pixels = max(comparison.pixels, difference.pixels)
        comparison.score = max(comparison.score, difference.score)
        comparison.mask_iou = min(comparison.mask_iou, difference.mask_iou)
        comparison.problems += [f"image {number}: {problem}" for problem in difference.problems]
    if not comparison.compared and not comparison.problems:
        comparison.problems.append("neither finds anything in these images, which proves nothing: give others")
    comparison.milliseconds = latencies(runs)
    return comparison


def _end_of(description: Description) -> End:
    """Where the lists of a model's detections end."""
    rule = description.settings.get("postprocess")
    if rule is not None:
        return End(rule["max_detections"], rule["update_threshold"])
    return End(description.settings.get("top_k") or 1)


def _runs(original: Model, exported: ExportedModel, image: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Both models on one image that is read already or, for a detector, resized already."""
    if isinstance(exported, ExportedMatcher):
        points = grid_points(image.source, 8)

        def run(model: Any) -> Any:
            return model.match(image.source, image.target, points)

    else:
        batch = exported.framed(ImageBatch.from_images([exported.input_rule.resize(image).float()]))
        size = image_size(image)

        def run(model: Any) -> Any:
            return model.detect(model.normalize(batch), [size])[0]

    return partial(run, original), partial(run, exported)


def latencies(runs: Sequence[tuple[Callable[[], Any], Callable[[], Any]]]) -> dict[str, tuple[float, float]]:
    """Medians of wall-clock and CPU time in milliseconds of both models, which take turns."""
    times: dict[str, list[tuple[float, float]]] = {"original": [], "exported": []}
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for pair in runs:
                for name, run in zip(times, pair, strict=True):
                    wall, cpu = time.perf_counter(), time.process_time()
                    run()
                    times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(w for w, _ in each) * 1e3, statistics.median(c for _, c in each) * 1e3)
        for name, each in times.items()
    }


def _difference(own: Any, new: Any, tolerance: Tolerance, end: End) -> Comparison:
    if isinstance(own, Detections):
        return compare_detections(own, new, tolerance, end)
    pixels = float((own.points - new.points).abs().max())
    score = float((own.confidence - new.confidence).abs().max())
    found = Comparison(pixels, score, compared=len(own))
    if not (pixels <= tolerance.pixels and score <= tolerance.score):
        found.problems.append(f"points differ by {pixels:.3g} pixels, confidences by {score:.3g}")
    return found


def compare_detections(own: Detections, new: Detections, tolerance: Tolerance, end: End) -> Comparison:
    """Pair the detections of an image one to one, of each class, and compare the pairs.

    The least certain detections of a full list may change places with those that are just left out: where a detection
    has no equal, and its score is within the tolerance of the `end` of the other list, it does not count.
    """
    pixels = (own.boxes[:, None] - new.boxes).abs().amax(-1)
    score = (own.scores[:, None] - new.scores).abs()
    off = (pixels / tolerance.pixels).maximum(score / tolerance.score).nan_to_num(FAR, FAR).clamp(max=FAR)
    off = torch.where(own.labels[:, None] == new.labels, off, FAR)
    rows, columns = linear_sum_assignment(off.clamp(max=2).numpy())  # so that as many as possible are equal
    equal = (off[rows, columns] <= 1).numpy()
    found = Comparison(compared=int(equal.sum()))
    lost = _lost(own, new, rows[equal], tolerance, end) + _lost(new, own, columns[equal], tolerance, end)
    if lost:
        worst = f"{len(lost)} detections have no equal, the highest scores {max(lost):.3f}"
        nearest = float(off[rows, columns][~equal].min()) if not equal.all() else FAR
        found.problems.append(worst + (f"; off by {nearest:.3g} times what is allowed" if nearest < FAR else ""))
    rows, columns = rows[equal], columns[equal]
    if len(rows):
        found.pixels, found.score = float(pixels[rows, columns].max()), float(score[rows, columns].max())
        counts = (own.scores[rows] >= tolerance.least).numpy()
        rows, columns = rows[counts], columns[counts]
        _compare_masks(own[torch.from_numpy(rows)], new[torch.from_numpy(columns)], tolerance, found)
    return found


def _lost(one: Detections, other: Detections, equal: np.ndarray, tolerance: Tolerance, end: End) -> list[float]:
    """Scores of the detections of `one` that have no equal and are not excused by the end of the other list."""
    scores = np.delete(one.scores.numpy(), equal).tolist()
    lowest = float(other.scores.min()) if len(other) >= end.longest else end.score
    return [value for value in scores if not value <= lowest + tolerance.score and not value < tolerance.least]


def _compare_masks(own: Detections, new: Detections, tolerance: Tolerance, found: Comparison) -> None:
    if own.stored_masks is None or new.stored_masks is None:
        return
    for i in range(len(own)):
        one, other = (_mask(detections[[i]]) for detections in (own, new))
        union, different = int((one | other).sum()), int((one ^ other).sum())
        if different > FEW_PIXELS:
            found.mask_iou = min(found.mask_iou, 1 - different / union)
    if found.mask_iou < tolerance.mask_iou:
        found.problems.append(f"two masks have an IoU of {found.mask_iou:.4f}")


def _mask(single: Detections) -> Tensor:
    assert single.masks is not None
    return single.masks[0]
