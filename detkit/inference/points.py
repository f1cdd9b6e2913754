"""Detecting the objects at the points that a file gives."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.images import image_size, read_photo
from detkit.inference.files import check_outputs
from detkit.inference.point_prompts import ImagePoints, first_ten, read_point_prompts
from detkit.inference.processing import ImageResult, Summary, process_files
from detkit.modeling.image_model import ImageModel
from detkit.modeling.prompted import NEEDED, PromptedModel
from detkit.modeling.sources import find_images
from detkit.structures import PromptedDetections

logger = logging.getLogger(__name__)


@dataclass
class PointSummary(Summary):
    """What became of the points.

    Attributes:
        points: number of points in the images that were used as prompts.
        unanswered: number of these points without an object.
        without_points: images that the file has no points for; nothing is detected in them.
        missing: number of points of each image that the file has but that was not given.
    """

    points: int = 0
    unanswered: int = 0
    without_points: list[Path] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)

    def lines(self, min_score: float = 0.0) -> list[str]:
        """The summary as lines of text."""
        text = [f"{self.objects} objects for {self.points} points in {self.images} images"]
        text[0] += self.hint(min_score) if min_score > 0 and self.points else ""
        if self.unanswered:
            text.append(f'{self.unanswered} points have no answer: see "unanswered" in predictions.json')
        if self.without_points:
            text.append(f"{len(self.without_points)} images have no points: {first_ten(self.without_points)}")
        if self.missing:
            points = f"{sum(self.missing.values())} points"
            text.append(f"{points} are of {len(self.missing)} images that were not given: {first_ten(self.missing)}")
        return text


def predict_points(
    model: ImageModel,
    paths: Sequence[str | Path],
    points_file: Path,
    out: Path,
    *,
    prompt: str = "point",
    min_score: float = 0.0,
) -> PointSummary:
    """Find the objects at the points of a file (see `detkit.data.points.file`), whose images are among `paths`.

    Images are matched by the end of their path. They are upright by their EXIF rotation, and so are the results; points
    of a file whose width and height are those of the stored pixels are turned with them.

    Writes one drawn image for each file, with its points (a cross for one without an answer); `predictions.json` as
    `predict_files` does, with "image_id", the ids of the "unanswered" annotations, and for each object "point" and
    "annotation_id"; and `results.json`, the same objects as COCO results.

    Args:
        prompt: "point"; "point_with_size", which uses the boxes of the annotations; or "class", which uses the classes
            alone, so that no object belongs to a point.
        min_score: objects that score lower are left out.

    Raises:
        ValueError: the model takes no prompts; the file cannot be used, no image of it is among `paths`, or one stands
            for several; an annotation lacks a box that the prompt needs or is of a class that the model does not know.
    """
    if not isinstance(model, PromptedModel):
        raise ValueError(f"a {type(model).__name__} takes no point prompts")
    if prompt not in NEEDED:
        raise ValueError(f"prompt {prompt!r} does not use points: choose from {', '.join(NEEDED)}")
    files = find_images(paths)
    prompts = read_point_prompts(points_file, [*files], model.label_map, with_boxes=prompt == "point_with_size")
    of_file = {file: prompts.of_file.get(file, ImagePoints()) for file in files}
    summary = PointSummary(missing=prompts.missing)
    summary.without_points = [file for file in files if not of_file[file].points]

    def read(file: Path) -> Tensor:
        image, frame = read_photo(file)
        if of_file[file].points and (doubt := frame.doubt()):
            logger.warning("%s: %s", file, doubt)
        of_file[file] = of_file[file].upright(frame)
        of_file[file].check_inside(image, f"{file} is left out")
        return image

    def predict(file: Path, image: Tensor) -> ImageResult:
        result = _predict_image(model, image, of_file[file], prompt, min_score, summary)
        summary.points += len(of_file[file].points)
        summary.unanswered += len(result.more["unanswered"])
        return result

    results_file = out / "results.json"
    check_outputs([], [results_file, out / "predictions.json"], [points_file])
    process_files(files, out, summary, predict, read=read, results_file=results_file)
    return summary


def _predict_image(
    model: PromptedModel, image: Tensor, prompts: ImagePoints, prompt: str, min_score: float, summary: Summary
) -> ImageResult:
    from detkit.visualize import draw_detections, draw_points

    if prompts.image_id is None or not prompts.points:
        return ImageResult([], [], draw_points(image, []), dict(image_id=prompts.image_id, unanswered=[]))
    given: dict[str, Any] = {name: getattr(prompts, name) for name in NEEDED[prompt]}
    answers = model.predict(image, prompt=prompt, **given)[0]
    summary.note_scores(answers.scores)
    found = answers[answers.scores >= min_score].cpu().clipped(*image_size(image))
    assert isinstance(found, PromptedDetections) and found.owners is not None
    owners, by_point = set(found.owners.tolist()), prompt != "class"
    answered = [number in owners or not by_point for number in range(len(prompts.points))]
    labels = torch.tensor(prompts.labels, dtype=torch.int64)
    drawn = draw_detections(image, found)
    drawn = draw_points(drawn, prompts.points, labels, category_ids=model.label_map.category_ids, answered=answered)
    results = found.to_coco(prompts.image_id, prompts.annotation_ids)
    unanswered = [i for i, has_answer in zip(prompts.annotation_ids, answered, strict=True) if not has_answer]
    return ImageResult(results, found.names(), drawn, dict(image_id=prompts.image_id, unanswered=unanswered))
