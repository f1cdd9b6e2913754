"""Running a detector over image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.download.fetch import cached_name, is_url
from detkit.images import image_size, read_image
from detkit.inference.processing import ImageResult, Summary, process_files
from detkit.modeling.image_model import MIN_SCORE, ImageModel
from detkit.modeling.sources import find_images, load_url
from detkit.modeling.views import OVERLAP, check_slices
from detkit.structures import Detections


@dataclass(frozen=True)
class Options:
    """How objects are looked for; see `detkit.modeling.image_model.ImageModel.predict`.

    Attributes:
        min_score: None takes the thresholds of the checkpoint, or 0.3 where it has none.
    """

    min_score: float | None = None
    classes: Sequence[str] | None = None
    slice: int | None = None
    overlap: float = OVERLAP
    tta: bool = False

    def finder(self, model: ImageModel, summary: Summary) -> Callable[[Tensor], Detections]:
        """The function from an image `[3, h, w]` to what is found in it, on the CPU and clipped to it.

        Args:
            summary: takes the scores into account.

        Raises:
            ValueError: an option out of range, or an unknown class.
        """
        check_slices(self.slice, self.overlap)
        options: dict[str, Any] = dict(slice=self.slice, overlap=self.overlap, tta=self.tta)
        keep = model.keeper(self.min_score, self.classes)

        def noting(found: Detections) -> Detections:
            summary.note_scores(found.scores)
            return keep(found)

        @torch.inference_mode()
        def find(image: Tensor) -> Detections:
            return model.find(image, noting, **options).cpu().clipped(*image_size(image))

        return find

    def lowest_score(self, model: ImageModel) -> float | None:
        """`min_score` as messages name it: the default where there are no thresholds; None where there are."""
        if self.min_score is None:
            return None if model.thresholds else MIN_SCORE
        return self.min_score


def predict_files(model: ImageModel, paths: Sequence[str | Path], out: Path, options: Options | None = None) -> Summary:
    """Find objects in files, folders, globs and URLs of images.

    Writes one drawn image for each, in the folders of the files, and `predictions.json`: a list of `{"file",
    "drawn", "objects"}`, each object with class name, category id, score and box (x, y, width, height in pixels of the
    upright image, clipped to it; masks as RLE). A file that cannot be used is reported and left out.

    Raises:
        ValueError: no images, a drawing would replace a file that is none, or see `Options.finder`.
    """
    summary = Summary()
    find = (options or Options()).finder(model, summary)
    urls = {Path(path): str(path) for path in paths if is_url(path)}
    local = [path for path in paths if not is_url(path)]
    files = (find_images(local) if local else {}) | {file: Path(cached_name(url)) for file, url in urls.items()}

    def read(file: Path) -> Tensor:
        return load_url(urls[file]) if file in urls else read_image(file)

    def predict(_: Path, image: Tensor) -> ImageResult:
        detections = find(image)
        results = [{k: v for k, v in result.items() if k != "image_id"} for result in detections.to_coco(0)]
        return ImageResult(results, detections.names(), detections.draw(image, min_score=-1.0))

    process_files(files, out, summary, predict, read=read, shown=urls)
    return summary
