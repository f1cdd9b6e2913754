"""A checkpoint, its validation data, and what it finds there; kept in files, so that it is computed once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkit.checkpoints.files import find_weights, is_run
from detkit.checkpoints.header import TENSORS, require
from detkit.checkpoints.weights import explaining_imports, load_model, read_header
from detkit.config import apply_overrides, resolve_config
from detkit.data.coco_file import load_json
from detkit.evaluation.backends import detection_rows
from detkit.evaluation.coco import CocoEvaluator
from detkit.files import write_json, write_text
from detkit.runtime.components import build_evaluation, import_components
from detkit.runtime.evaluate import evaluate, evaluation_options
from detkit.structures import LabelMap
from detkit.structures.protocols import Dataset, Evaluator

logger = logging.getLogger(__name__)

METRICS, DETECTIONS = "metrics.json", "detections.json"


@dataclass
class Evaluated:
    """A checkpoint, its validation data, and what it finds there.

    Attributes:
        weights: the checkpoint.
        header, config: of the checkpoint; the config with what was overridden.
        dataset: the validation data.
        evaluator: its settings and ground truth; it need not have detections.
        rows: [n] of `detkit.evaluation.backends.DETECTION`.
        masks: n RLE dicts, or empty.
        figures: such as "bbox/AP", 0..1, -1 where there is no such object.
        classes: the same by IoU type and class name.
    """

    weights: Path
    header: dict[str, Any]
    config: dict[str, Any]
    dataset: Any
    evaluator: CocoEvaluator
    rows: np.ndarray
    masks: list[dict[str, Any]]
    figures: dict[str, float]
    classes: dict[str, dict[str, dict[str, float]]]

    @property
    def truth(self) -> dict[str, Any]:
        """The ground truth, as `detkit.evaluation.backends.clean_ground_truth` gives it."""
        return self.evaluator.ground_truth

    @property
    def names(self) -> list[str]:
        """The name of each class of the ground truth."""
        return self.evaluator.class_names

    @property
    def folder(self) -> Path | None:
        """The folder of the run whose chosen weights these are, or None."""
        return run_of(self.weights)


def run_of(weights: Path) -> Path | None:
    """The folder of the run whose chosen weights (the best, otherwise the last) a file is, or None."""
    folder = weights.parent
    return folder if is_run(folder) and find_weights(folder) == weights else None


def evaluate_checkpoint(
    source: str | Path, *, set: Sequence[str] = (), device: str = "auto", imports: Sequence[str] = ()
) -> Evaluated:
    """Evaluate a checkpoint on its validation data; of a run that has been evaluated so already, read the files.

    Args:
        source: a checkpoint, or the folder of a run.
        set: "key=value" for its config, such as "data.val.annotation_file=val.json".
        device: where the model runs, "auto" is the GPU where there is one.
        imports: modules and files to import first.

    Raises:
        ValueError: there is no checkpoint or validation data, or it is no detector.
    """
    import_components(imports)
    weights = find_weights(source)
    header = read_header(weights)
    require(header, weights)
    config = resolve_config(apply_overrides(header["config"], set))
    dataset, evaluator = _validation(weights, header, config)
    key = evaluation_key(header, config, evaluator)
    folder = run_of(weights)
    stored = read_evaluation(folder, key) if folder else None
    if stored is None:
        figures = _run(weights, config, dataset, evaluator, device)
        if folder and not set:
            write_evaluation(folder / DETECTIONS, evaluator, figures, weights, key)
        stored = (*evaluator.detections(), figures, evaluator.class_figures())
    return Evaluated(weights, header, config, dataset, evaluator, *stored)


def _validation(weights: Path, header: dict[str, Any], config: dict[str, Any]) -> tuple[Dataset, CocoEvaluator]:
    try:
        with explaining_imports(weights, config):
            dataset, evaluator = build_evaluation(config, LabelMap(**header["label_map"]))
    except (ValueError, OSError) as error:
        hint = "; name the data with --set data.val.annotation_file=FILE data.val.image_folder=FOLDER"
        raise ValueError(f"{weights}: {error}{hint if str(error).startswith('data.val') else ''}") from error
    if not isinstance(evaluator, CocoEvaluator):
        raise ValueError(f"{weights}: reports are for detectors; this is measured by a {type(evaluator).__name__}")
    return dataset, evaluator


def _run(weights: Path, config: dict[str, Any], dataset: Dataset, evaluator: Evaluator, device: str) -> dict:
    logger.info("evaluating %s on %d images", weights, len(dataset))
    return evaluate(load_model(weights, device), dataset, evaluator, **evaluation_options(config))


def evaluation_key(header: Mapping[str, Any], config: Mapping[str, Any], evaluator: Any) -> str | None:
    """What tells two evaluations apart: weights, data and settings; None for weights without a checksum."""
    if TENSORS not in header:
        return None
    truth = truth_key(evaluator.ground_truth) if isinstance(evaluator, CocoEvaluator) else None
    parts = [header[TENSORS], config["data"]["val"], config["evaluator"], config["train"]["precision"], truth]
    return _digest([*parts, header["label_map"], header["input_rule"]])


def truth_key(truth: Mapping[str, Any]) -> str:
    """What two validation sets that are the same have in common: image ids, sizes, classes and boxes."""
    images = sorted((i["id"], i.get("height"), i.get("width")) for i in truth["images"])
    keys = ("image_id", "category_id", "bbox", "iscrowd")
    objects = sorted(json.dumps([a[key] for key in keys]) for a in truth["annotations"])
    return _digest([images, objects, [(c["id"], c["name"]) for c in truth["categories"]]])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, default=str, sort_keys=True).encode()).hexdigest()


def write_evaluation(
    detections: Path, evaluator: Any, figures: Mapping[str, float], weights: Path, key: str | None
) -> Path:
    """Write what an evaluator has counted, and metrics.json with its figures beside that; each file atomically.

    Args:
        detections: the file for the detections.
        figures: what the evaluation gave.
        weights: the checkpoint.
        key: see `evaluation_key`.

    Returns:
        The path of metrics.json.
    """
    write_json(detections, evaluator.results())
    content: dict[str, Any] = {"checkpoint": str(weights), "detections": detections.name, "key": key}
    content["figures"] = _null_for_undefined(figures)
    if isinstance(evaluator, CocoEvaluator):
        truth = evaluator.ground_truth
        content |= {"images": len(truth["images"]), "objects": sum(not a["iscrowd"] for a in truth["annotations"])}
        by_class = evaluator.class_figures()
        content["classes"] = {
            iou_type: {name: _null_for_undefined(values) for name, values in classes.items()}
            for iou_type, classes in by_class.items()
        }
    write_text(detections.with_name(METRICS), json.dumps(content, indent=1))
    return detections.with_name(METRICS)


def read_evaluation(folder: Path, key: str | None) -> tuple[np.ndarray, list, dict, dict] | None:
    """Rows, masks, figures and figures by class that `write_evaluation` wrote; None if they are of something else."""
    path = folder / METRICS
    if key is None or not path.is_file():
        return None
    try:
        content = load_json(path)
        if content["key"] != key:
            return None
        results = load_json(folder / content["detections"])
        columns = [[result[name] for result in results] for name in ("image_id", "bbox", "score", "category_id")]
        masks = [result["segmentation"] for result in results if "segmentation" in result]
        figures, classes = content["figures"], content["classes"]
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be used, evaluating again: %s", path, error)
        return None
    classes = {kind: {name: _defined(v) for name, v in by_name.items()} for kind, by_name in classes.items()}
    return detection_rows(*columns), masks, _defined(figures), classes


def _null_for_undefined(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value < 0 else value for name, value in figures.items()}


def _defined(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: -1.0 if value is None else value for name, value in figures.items()}
