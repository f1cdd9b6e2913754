"""MatchMe (arXiv 2311.18540): a matcher annotates image pairs for the next matcher, in several rounds, as one program.

Stages, each with a folder of plain files:

    baseline             figures of a matcher without training
    teacher              a matcher trained on the labelled pairs
    control              optional: trained as the students, but on the labelled pairs only
    labels_1             quality.json, the precision of the teacher's annotations on held-out pairs; if that is high
                         enough also pseudo.json, its annotations of unlabelled pairs, and optionally densified.json
    student_1            a new matcher, trained on labelled and annotated pairs, half and half
    labels_2, ...        annotations by the student

docs/differences.md says which parts follow the paper and which are detkit's own design.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detkit.checkpoints.weights import load_model
from detkit.config import SECTIONS
from detkit.correspondence.matcher import Matcher
from detkit.data.coco_file import load_json
from detkit.data.pairs.pool import ImagePool, PairImages, check_apart
from detkit.files import write_json
from detkit.pipelines.matchme.config import resolve, rules, student_config
from detkit.pipelines.matchme.labels import judge_pairs, write_densified_pairs, write_pseudo_pairs
from detkit.pipelines.matchme.report import write_report
from detkit.pipelines.stages import StageRunner, named_files
from detkit.pipelines.training import check_run, stable_part, train_in
from detkit.registry import ConfigError, build
from detkit.runtime.components import build_model
from detkit.runtime.evaluate import evaluate
from detkit.runtime.lock import locked
from detkit.runtime.processes import choose_device

WEIGHTS = Path("run", "best.safetensors")


def run_rounds(
    config: dict[str, Any], out: str | Path, *, processes: int = 1, say: Callable[[str], None] = print
) -> Path:
    """Run all stages that are not complete yet, and write the report.

    Args:
        config: see `detkit.pipelines.matchme.config`.
        out: folder of the program.
        processes: for each training, usually one for each GPU.

    Returns:
        The path of report.md.

    Raises:
        ConfigError: the config, the data or what lies in `out` does not allow it, or another process runs in it.
        KeyboardInterrupt: stopped; the same call goes on.
    """
    with locked(out):
        return Rounds(config, Path(out), processes=processes, say=say).run()


@dataclass
class Data:
    """The datasets of all stages; `test` may be None."""

    train: Any
    val: Any
    held_out: Any
    test: Any
    pool: ImagePool


class Rounds:
    """The stages of one config."""

    def __init__(self, config: dict[str, Any], out: Path, *, processes: int, say: Callable[[str], None]):
        self.teacher, self.section = resolve(config)
        self.rules, self.processes, self.say = rules(self.section), processes, say
        self.device = choose_device(self._train_option("device"))
        self.data = self._build_data()
        student = student_config(self.teacher, self.section, self.teacher["data"]["train"], number=0)
        check_run({**student, "evaluator": self._evaluator}, "rounds.student", self.data.train.label_map)
        self.stages = StageRunner(out, config, say=say)
        self.ending = f"all {self.section['rounds']} rounds are done"

    def run(self) -> Path:
        """All stages and the report."""
        self.stages.run("baseline", self._measure_baseline, inputs=self._measured_on(self.section["baseline"]))
        best = self.train("teacher", self.teacher)
        if self.section["control"]:
            labelled = self.teacher["data"]["train"]
            self.train("control", student_config(self.teacher, self.section, labelled, number=0))
        for number in range(1, self.section["rounds"] + 1):
            labels = self.annotate(number, best)
            if not self._passes_gate(number, labels):
                break
            student = self.train(f"student_{number}", self.student(number, labels), labels=labels)
            gain = self._figure(student) - self._figure(best)
            best = student if gain > 0 else best
            if gain < self.section["min_gain"] and number < self.section["rounds"]:
                self.ending = (
                    f"round {number} gained {100 * gain:.1f} points, less than rounds.min_gain; there is no further one"
                )
                break
        self.say(f"== {self.ending}")
        weights = {"teacher": self.stages.out / "teacher" / WEIGHTS, best.name.replace("_", " "): best / WEIGHTS}
        shown = self.data.val if self.data.test is None else self.data.test
        return write_report(
            self.stages.out,
            labelled=self.data.train,
            shown=shown,
            settings=self.section,
            ending=self.ending,
            weights=weights,
        )

    def train(self, name: str, config: dict[str, Any], *, labels: Path | None = None) -> Path:
        """The folder of a training, with the figures of its best weights."""

        def work(folder: Path) -> None:
            train_in(folder / "run", config, processes=self.processes)
            self._measure(load_model(folder / WEIGHTS, self.device), folder)

        run = stable_part(config)
        if labels is not None:
            run["data"].pop("train")  # it names the files of the labels, whose content counts
        inputs = self._measured_on(run)
        if labels is not None:
            names = ("pseudo.json", "densified.json") if self.section["densify"] else ("pseudo.json",)
            inputs["labels"] = [labels / name for name in names]
            inputs["labelled"] = self.teacher["data"]["train"]
            inputs |= {name: self.section[name] for name in ("pool", "weight", "ramp")}
        inputs["files"] = named_files(inputs)
        return self.stages.run(name, work, inputs=inputs)

    def student(self, number: int, labels: Path) -> dict[str, Any]:
        """The config of the student of round `number`, which learns from the labels in a folder."""
        labelled = self.teacher["data"]["train"]
        if self.section["densify"]:
            labelled = dict(type="DensifiedPairs", pairs=labelled, file=str(labels / "densified.json"))
        pseudo = dict(type="PseudoPairs", file=str(labels / "pseudo.json"), pool=self.section["pool"])
        mixture = dict(labelled=labelled, pseudo=pseudo, weight=self.section["weight"], ramp=self.section["ramp"])
        return student_config(self.teacher, self.section, dict(type="MixedPairs", **mixture), number=number)

    def annotate(self, number: int, matcher: Path) -> Path:
        """The folder with the annotations of round `number` by the matcher in another folder."""
        keys = ("annotate", "pool", "pairs", "seed", "held_out", "alpha", "gate", "densify")
        inputs: dict[str, Any] = {key: self.section[key] for key in keys}
        inputs |= {"matcher": matcher / WEIGHTS, "round": number, "train": self.teacher["data"]["train"]}
        inputs |= {"val": self.teacher["data"]["val"], "threshold": self._threshold}
        work = partial(self._annotate, number=number, weights=matcher / WEIGHTS)
        inputs["files"] = named_files(inputs)
        return self.stages.run(f"labels_{number}", work, inputs=inputs)

    def _annotate(self, folder: Path, *, number: int, weights: Path) -> None:
        matcher = load_model(weights, self.device)
        options = dict(loading=self._loading(), precision=self._train_option("precision"))
        judged = dict(threshold=self._threshold, alpha=self.section["alpha"])
        quality = judge_pairs(matcher, self.data.held_out, self.rules, **judged, **options).to_dict()
        if (quality["precision"] or 0.0) >= self.section["gate"] and quality["judged"]:
            info = {"round": number, "rules": vars(self.rules), "precision": quality["precision"]}
            seed = (self.section["seed"], number)
            drawing = dict(labelled=self.data.train, number=self.section["pairs"], seed=seed)
            counts = write_pseudo_pairs(
                folder / "pseudo.json", matcher, self.data.pool, self.rules, info=info, **drawing, **options
            )
            quality |= {f"pool_{name}": value for name, value in counts.items()}
            if self.section["densify"]:
                quality["densified"] = write_densified_pairs(
                    folder / "densified.json", matcher, self.data.train, self.rules, info=info, **options
                )
        write_json(folder / "quality.json", quality)

    def _passes_gate(self, number: int, labels: Path) -> bool:
        quality, gate = load_json(labels / "quality.json"), self.section["gate"]
        if quality["precision"] is None:
            reason = "no key-point of the held-out pairs lies in a reliable cell, so nothing can be said of them"
        elif quality["precision"] < gate:
            reason = (
                f"only {100 * quality['precision']:.1f} % of them are right on held-out pairs, less than {gate:.0%}"
            )
        elif not quality["pool_kept"]:
            reason = f"none of {quality['pool_pairs']} pairs of the pool has enough reliable cells"
        else:
            return True
        self.ending = f"round {number} was not trained on its annotations: {reason}"
        return False

    def _measure_baseline(self, folder: Path) -> None:
        model = build_model(self.section["baseline"], self.data.train.label_map).to(self.device)
        self._measure(model.eval(), folder)

    def _measure(self, model: Matcher, folder: Path) -> None:
        """Write figures.json: the figures on val and test."""
        figures = {}
        for name, dataset in (("val", self.data.val), ("test", self.data.test)):
            if dataset is not None:
                evaluator = build(self._evaluator, path="evaluator", dataset=dataset)
                options = dict(precision=self._train_option("precision"), **self._loading())
                figures[name] = evaluate(model, dataset, evaluator, **options)
                self.say(f"{folder.name} on {name}:\n{evaluator.table()}")
        write_json(folder / "figures.json", figures)

    def _measured_on(self, made: dict[str, Any]) -> dict[str, Any]:
        """The inputs of a stage that makes a matcher and measures its figures."""
        return {"made": made, "val": self.teacher["data"]["val"], "test": self.section["test"]}

    def _figure(self, folder: Path) -> float:
        return load_json(folder / "figures.json")["val"][self.metric]

    @property
    def metric(self) -> str:
        """The figure that decides: `train.best_metric`, by default the evaluator's first."""
        figures = load_json(self.stages.out / "baseline" / "figures.json")["val"]
        return self._train_option("best_metric") or next(iter(figures))

    @property
    def _evaluator(self) -> dict[str, Any]:
        return self.teacher["evaluator"]

    @property
    def _threshold(self) -> str:
        return self._evaluator.get("threshold", "bbox")

    def _train_option(self, name: str) -> Any:
        return self.teacher["train"].get(name, SECTIONS["train"][name])

    def _loading(self) -> dict[str, Any]:
        data = {**SECTIONS["data"], **self.teacher["data"]}
        return {"batch_size": data["eval_batch_size"], "workers": data["workers"], "skip_broken": data["skip_broken"]}

    def _build_data(self) -> Data:
        """Build all datasets. They must have the same classes, and the pool no image that matchers are measured on."""
        data, section = self.teacher["data"], self.section
        train = build(data["train"], path="data.train")
        val = build(data["val"], path="data.val")
        pool = build(section["pool"], path="rounds.pool")
        test, held_out = (
            None if section[name] is None else build(section[name], path=f"rounds.{name}")
            for name in ("test", "held_out")
        )
        named = {"data.val": val, "rounds.test": test, "rounds.held_out": held_out}
        for name, other in {**named, "rounds.pool": pool}.items():
            if other is not None and other.label_map != train.label_map:
                raise ConfigError(f"{name}: its classes differ from those of data.train")
        for name, other in named.items():
            if other is not None:
                try:
                    check_apart(pool, PairImages(other), name, by_name=section["same_names"])
                except ValueError as error:
                    raise ConfigError(f"rounds.pool: {error}") from error
        return Data(train, val, val if held_out is None else held_out, test, pool)
