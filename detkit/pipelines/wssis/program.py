"""PointWSSIS (arXiv 2303.15062): instance segmentation from a few masks and many points, as one program.

Stages, each with a folder of plain files:

    data                  strong.json, weak.json and, where known, truth.json
    teacher               trained on the strong images
    weak_predictions      the teacher's masks at the points of the weak images
    strong_predictions    masks of the unfinished teacher on the strong images, the training input of the refiner
    refiner               trained to turn these masks into the true ones
    refined_predictions   the masks at the weak points, refined
    labels                raw.json, refined.json: strong labels and pseudo labels together; their quality
    student_raw, student_refined, bound    trained on raw and refined labels, and on the truth
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detkit.checkpoints.weights import load_model
from detkit.data.coco_file import load_json, read_coco_file, select_categories
from detkit.data.points.dataset import PointDataset
from detkit.data.points.file import read_points
from detkit.engine.hooks import kept_weights
from detkit.files import write_json
from detkit.pipelines.stages import StageRunner
from detkit.pipelines.training import check_run, coco_data, run_config, stable_part, steps_per_epoch, train_in
from detkit.pipelines.wssis.config import resolve
from detkit.pipelines.wssis.data import Sources, make_data
from detkit.pipelines.wssis.labels import (
    join_labels,
    label_quality,
    predict_at_points,
    pseudo_labels,
    refine_predictions,
    unanswered,
)
from detkit.pipelines.wssis.report import write_report
from detkit.registry import ConfigError
from detkit.runtime.lock import locked
from detkit.runtime.processes import choose_device
from detkit.structures import LabelMap


def run_wssis(
    config: dict[str, Any], out: str | Path, *, processes: int = 1, say: Callable[[str], None] = print
) -> Path:
    """Run all stages that are not complete yet, and write the report.

    Args:
        config: see `detkit.pipelines.wssis.config`.
        out: folder of the program.
        processes: for each training, usually one for each GPU.

    Returns:
        The path of report.md.

    Raises:
        ConfigError: the config, the data or what lies in `out` does not allow it, or another process runs in it.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    with locked(out):
        return Pipeline(resolve(config), Path(out), processes=processes, say=say).run()


class Pipeline:
    """The stages of one resolved config."""

    def __init__(self, config: dict[str, Any], out: Path, *, processes: int, say: Callable[[str], None]):
        self.config, self.processes = config, processes
        self.stages = StageRunner(out, config, total=self._count(), say=say)
        self.device = choose_device(config["pseudo"]["device"])

    def run(self) -> Path:
        """Run all stages that are not complete yet; returns the path of report.md."""
        sources = self.data()
        self.check(sources)
        teacher = self.train("teacher", self.teacher_section(), sources.strong, sources)
        predictions = {"raw": self.weak_predictions(teacher, sources)}
        if self.config["refine"] is not None:
            refiner = self.train_refiner(self.strong_predictions(teacher, sources), sources)
            predictions["refined"] = self.refined_predictions(refiner, predictions["raw"], sources)
        labels = self.labels(predictions, sources)
        runs = {"teacher": teacher}
        for kind in self.students():
            runs[f"student_{kind}"] = self.student(f"student_{kind}", labels / f"{kind}.json", sources)
        if self.config["bound"]:
            runs["bound"] = self.student("bound", labels / "truth.json", sources)
        return write_report(self.stages.out, sources, labels, predictions, runs)

    def students(self) -> list[str]:
        """Which labels students are trained on."""
        return [kind for kind in self.config["pseudo"]["students"] if kind == "raw" or self.config["refine"]]

    def _count(self) -> int:
        refining = 3 if self.config["refine"] is not None else 0
        return 4 + refining + len(self.students()) + bool(self.config["bound"])

    def data(self) -> Sources:
        """Run the stage that writes the strong and weak annotations; returns their paths.

        Raises:
            ConfigError: `bound` is wanted, but the true masks of the weak images are not known.
        """
        section = {name: self.config[name] for name in ("data", "split", "scenes") if self.config[name] is not None}
        files = [Path(value) for part in section.values() for key, value in part.items() if key in FILE_KEYS and value]
        inputs = {"config": section, "files": files}
        folder = self.stages.run("data", lambda folder: make_data(section, folder), inputs=inputs)
        sources = Sources.read(folder)
        if self.config["bound"] and sources.truth is None:
            raise ConfigError("bound: needs the true masks of the weak images (data.truth)")
        return sources

    def check(self, sources: Sources) -> None:
        """Check what later stages need, to find mistakes before hours of training.

        Raises:
            ConfigError: a run that cannot be built, steps that the teacher never reaches, or points without boxes.
        """
        is_done = self.stages.is_done
        classes = select_categories(load_json(sources.strong)["categories"], None)
        labels = LabelMap(tuple(c["name"] for c in classes), tuple(c["id"] for c in classes))
        strong = coco_data(sources.strong, sources.image_folder)
        if not is_done("teacher"):
            config = run_config(self.teacher_section(), strong, sources.val_data())
            check_run(config, "teacher", labels)
            self._check_teacher_steps(config)
        if self.config["refine"] is not None and not is_done("refiner"):
            check_run(self.refiner_config([], sources), "refine", labels)
        students = [f"student_{kind}" for kind in self.students()] + ["bound"] * self.config["bound"]
        if not all(map(is_done, students)):
            check_run(run_config(self.config["student"], strong, sources.val_data()), "student", labels)
        if self.config["pseudo"]["prompt"] == "point_with_size" and not is_done("weak_predictions"):
            lost = [a["id"] for a in read_points(sources.weak).content["annotations"] if "bbox" not in a]
            if lost:
                raise ConfigError(
                    f"pseudo.prompt: 'point_with_size' needs boxes; {len(lost)} annotations of {sources.weak} have no "
                    f"bbox: {lost[:10]}"
                )

    def _check_teacher_steps(self, config: dict[str, Any]) -> None:
        epochs, most = config["train"].get("epochs"), config["train"].get("max_steps")
        if self.config["refine"] is None or epochs is None:
            return
        steps = epochs * steps_per_epoch(config, self.processes)
        last, wanted = min(steps, most or steps), max(self.config["refine"]["teacher_steps"])
        if wanted > last:
            raise ConfigError(f"refine.teacher_steps: {wanted} is beyond the {last} steps of the teacher")

    def teacher_section(self) -> dict[str, Any]:
        """The teacher's config; it keeps the weights of the steps that `refine.teacher_steps` names."""
        section, refine = self.config["teacher"], self.config["refine"]
        if refine is None:
            return section
        return {**section, "train": {**section["train"], "keep_steps": refine["teacher_steps"]}}

    def train(self, name: str, section: dict[str, Any], labels: Path, sources: Sources) -> Path:
        """Run a stage that trains a detector; returns the path of its last weights."""
        config = run_config(section, coco_data(labels, sources.image_folder), sources.val_data())
        inputs = {"config": stable_part(section), "labels": labels, "val": sources.val}
        folder = self.stages.run(
            name, lambda folder: train_in(folder / "run", config, processes=self.processes), inputs=inputs
        )
        return folder / "run" / "last.safetensors"

    def student(self, name: str, labels: Path, sources: Sources) -> Path:
        """Run a stage that trains a student on a file of labels; returns the path of its last weights."""
        return self.train(name, self.config["student"], labels, sources)

    def weak_predictions(self, teacher: Path, sources: Sources) -> Path:
        """Run the stage in which the teacher predicts masks at the weak points; returns its predictions.json."""
        pseudo = self.config["pseudo"]

        def predict(folder: Path) -> None:
            dataset = PointDataset(sources.weak, sources.image_folder)
            model = load_model(teacher, self.device)
            options = dict(prompt=pseudo["prompt"], batch_size=pseudo["batch_size"])
            write_json(folder / "predictions.json", predict_at_points(model, dataset, **options))

        inputs = {"prompt": pseudo["prompt"], "teacher": teacher, "weak": sources.weak}
        return self.stages.run("weak_predictions", predict, inputs=inputs) / "predictions.json"

    def strong_predictions(self, teacher: Path, sources: Sources) -> list[Path]:
        """Run the stage in which the teacher's kept weights predict masks on the strong images.

        Returns:
            A file of predictions for each step of `refine.teacher_steps`.
        """
        steps, pseudo = self.config["refine"]["teacher_steps"], self.config["pseudo"]
        checkpoints = [kept_weights(teacher.parent, step) for step in steps]

        def predict(folder: Path) -> None:
            dataset = PointDataset(sources.strong, sources.image_folder)
            options = dict(prompt=pseudo["refine_prompt"], batch_size=pseudo["batch_size"])
            for step, checkpoint in zip(steps, checkpoints, strict=True):
                model = load_model(checkpoint, self.device)
                write_json(folder / f"step_{step}.json", predict_at_points(model, dataset, **options))

        inputs = {"prompt": pseudo["refine_prompt"], "teachers": checkpoints, "strong": sources.strong}
        folder = self.stages.run("strong_predictions", predict, inputs=inputs)
        return [folder / f"step_{step}.json" for step in steps]

    def refiner_config(self, predictions: list[Path], sources: Sources) -> dict[str, Any]:
        """The config of the refiner's run."""
        section = dict(self.config["refine"])
        section.pop("teacher_steps")
        crops = {
            "type": "RefineCrops",
            "predictions": [os.path.abspath(path) for path in predictions],
            "annotation_file": os.path.abspath(sources.strong),
            "image_folder": os.path.abspath(sources.image_folder),
            **section.pop("crops"),
        }
        return run_config(section, crops, None)

    def train_refiner(self, predictions: list[Path], sources: Sources) -> Path:
        """Run the stage that trains the refiner on these predictions; returns the path of its last weights."""
        config = self.refiner_config(predictions, sources)
        inputs = {"config": stable_part(self.config["refine"]), "predictions": predictions, "strong": sources.strong}
        folder = self.stages.run(
            "refiner", lambda folder: train_in(folder / "run", config, processes=self.processes), inputs=inputs
        )
        return folder / "run" / "last.safetensors"

    def refined_predictions(self, refiner: Path, predictions: Path, sources: Sources) -> Path:
        """Run the stage that refines the masks at the weak points; returns its predictions.json."""

        def refine(folder: Path) -> None:
            dataset = PointDataset(sources.weak, sources.image_folder)
            model = load_model(refiner, self.device)
            write_json(folder / "predictions.json", refine_predictions(model, dataset, load_json(predictions)))

        inputs = {"refiner": refiner, "predictions": predictions, "weak": sources.weak}
        return self.stages.run("refined_predictions", refine, inputs=inputs) / "predictions.json"

    def labels(self, predictions: dict[str, Path], sources: Sources) -> Path:
        """Run the stage that joins strong labels and pseudo labels.

        Returns:
            The folder of the label files raw.json, refined.json and truth.json (as far as there are such), and of
            quality.json.
        """

        def merge(folder: Path) -> None:
            strong, weak = load_json(sources.strong), read_points(sources.weak).content
            truth = read_coco_file(sources.truth, masks=True, quiet=True) if sources.truth else None
            quality: dict[str, Any] = {"points": len(weak["annotations"])}
            for kind, path in predictions.items():
                found = load_json(path)
                write_json(folder / f"{kind}.json", join_labels(strong, weak, pseudo_labels(found)))
                quality[kind] = {"unanswered": unanswered(weak, found)}
                quality[kind] |= label_quality(truth, weak, found) if truth else {}
            if truth:
                write_json(folder / "truth.json", join_labels(strong, weak, truth["annotations"]))
            write_json(folder / "quality.json", quality)

        inputs = {"predictions": predictions, "strong": sources.strong, "weak": sources.weak, "truth": sources.truth}
        return self.stages.run("labels", merge, inputs=inputs)


# Options of the data sections that name a file, whose content counts as input.
FILE_KEYS = ("strong", "weak", "truth", "val", "annotation_file")
