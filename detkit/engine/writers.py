"""Hooks that write the figures of a run: metrics files, console, TensorBoard, curves and drawn samples."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkit.console import format_seconds
from detkit.engine.hook import Hook, Run
from detkit.engine.loggers import build_logger
from detkit.files import append_line, unwritable, write_atomically, write_text
from detkit.images import ThinImageError
from detkit.registry import ConfigError
from detkit.runtime.processes import is_main
from detkit.runtime.random_state import unchanged_random_state
from detkit.structures import Annotations, Detections, ImagePair, LabelMap, PairAnnotations

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


logger = logging.getLogger(__name__)

TIMED_STEPS = 5  # after which the time of a run is foretold


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that was cut off while being written is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsFiles(Hook):
    """metrics.jsonl, a row as soon as it is known, and metrics.csv, the same rows, after each epoch.

    Rows of steps that a resumed run does again are dropped first.
    """

    def __init__(self, out: Path):
        self.jsonl, self.csv = out / "metrics.jsonl", out / "metrics.csv"

    def before_train(self, runner: Run) -> None:
        """Drop the rows of what comes after the state from which the run goes on."""
        rows = read_metrics(self.jsonl) if self.jsonl.exists() else []
        known = {"train": runner.step, "val": runner.step if runner.evaluated_at == runner.step else runner.step - 1}
        lines = "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= known[row["kind"]])
        write_text(self.jsonl, lines)

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """Append the row to metrics.jsonl."""
        append_line(self.jsonl, json.dumps(row))

    def after_epoch(self, runner: Run) -> None:
        """Write metrics.csv anew, with a column for each name that occurs in any row."""
        rows = read_metrics(self.jsonl)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.csv, text.getvalue())

    def after_train(self, runner: Run) -> None:
        """Write metrics.csv with the rows of the end."""
        self.after_epoch(runner)


class Progress(Hook):
    """One line a row; on a terminal a bar with the time left below it."""

    def before_train(self, runner: Run) -> None:
        """Print what the run consists of: device, model, trainable parameters, images, classes, steps and epochs."""
        parameters = sum(p.numel() for p in runner.model.parameters() if p.requires_grad)
        classes = len(runner.model.label_map)
        runner.console.line(
            f"on {runner.device}: {type(runner.model).__name__} with {parameters / 1e6:.1f} M parameters; "
            f"{len(runner.train_data)} training images, {classes} class{'es' * (classes != 1)}; "
            f"{runner.total_steps} steps in {runner.options['epochs']} epochs"
        )
        self._left, self._first = "", runner.step + 1

    def after_step(self, runner: Run) -> None:
        """Move the bar on; after a few steps print how long the training will take."""
        if runner.step == self._first:  # the first step takes longer than others
            self._measured_from = runner.train_seconds
        elif runner.step == self._first + TIMED_STEPS and runner.step < runner.total_steps:
            seconds = (runner.train_seconds - self._measured_from) / TIMED_STEPS
            left = format_seconds(seconds * (runner.total_steps - runner.step))
            runner.console.line(f"about {left} to go, without evaluations ({seconds:.3f} s a step)")
        text = f"step {runner.step}/{runner.total_steps}, epoch {runner.epoch + 1}/{runner.options['epochs']}"
        runner.console.bar(runner.step / runner.total_steps, text + self._left)

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """Print loss, speed and memory of a training row, or the first three figures of an evaluation."""
        if row["kind"] == "val":
            figures = ", ".join(f"{name} {value:.4f}" for name, value in list(runner.metrics.items())[:3])
            runner.console.line(f"step {row['step']}: {figures} (evaluated in {format_seconds(row['seconds'])})")
            return
        self._left = f", {format_seconds(row['seconds_left'])} left"
        runner.console.line(
            f"step {row['step']}/{runner.total_steps}  loss {row['loss']:.4f}  grad {row['grad_norm']:.3g}  "
            f"lr {row['lr']:.3g}  {row['seconds_per_step']:.3f} s/step  {row['images_per_second']:.1f} images/s  "
            f"waiting for data {row['data_wait']:.0%}  {row['memory_gib']:.1f} GiB{self._left}"
        )

    def after_train(self, runner: Run) -> None:
        """Print how the run ended, its best figure, and after a signal how to go on."""
        end = f"stopped ({runner.stop_reason})" if runner.stop_reason else "finished"
        best = f"; best {runner.best['value']:.4f} at step {runner.best['step']}" if runner.best["step"] else ""
        more = f"; continue with --resume --out {runner.out}" if runner.interrupted else ""
        runner.console.line(f"{end} after step {runner.step}{best}; results in {runner.out}{more}")


class TensorBoard(Hook):
    """All rows as TensorBoard scalars in `OUT/tensorboard`."""

    def before_train(self, runner: Run) -> None:
        """Open the writer; scalars of steps that a resumed run does again are dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder = runner.out / "tensorboard"
        with self._naming_the_folder():
            self._writer = SummaryWriter(str(self._folder), purge_step=runner.step + 1)

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """Write the values of the row as scalars `train/NAME` or `val/NAME`."""
        with self._naming_the_folder():
            for name, value in row.items():
                if name not in ("kind", "step"):
                    self._writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])

    def after_train(self, runner: Run) -> None:
        """Close the writer."""
        with self._naming_the_folder():
            self._writer.close()

    @contextlib.contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        """TensorBoard writes in a thread, and raises what fails there at the next row, without a name."""
        try:
            yield
        except OSError as error:
            raise unwritable(self._folder, error) from error


class Curves(Hook):
    """curves.png at the end: losses and average precision by step."""

    def after_train(self, runner: Run) -> None:
        """Draw curves.png from metrics.jsonl; without matplotlib warn instead."""
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning("curves.png is not drawn: matplotlib is not installed (pip install matplotlib)")
            return
        from detkit.visualize import plot_curves

        rows = read_metrics(runner.out / "metrics.jsonl")
        if any(row["kind"] == "train" for row in rows):
            write_atomically(runner.out / "curves.png", lambda path: plot_curves(rows, path))


class DrawSamples(Hook):
    """samples/*.png after each evaluation and at the end: what is found in the first validation images, and the truth.

    Args:
        number: of images.
    """

    def __init__(self, number: int):
        self.number = number
        self._drawn_at: int | None = None

    def on_row(self, runner: Run, row: dict[str, Any]) -> None:
        """Draw the samples after an evaluation."""
        if row["kind"] == "val":
            self._draw(runner)

    def after_train(self, runner: Run) -> None:
        """Draw the samples with the final weights, unless a signal ended the run or they are drawn already."""
        if not runner.interrupted:
            self._draw(runner)

    def _draw(self, runner: Run) -> None:
        if self._drawn_at == runner.step:
            return
        self._drawn_at = runner.step
        with unchanged_random_state():
            draw_samples(runner.trained_model, runner.val_data, self.number, runner.out / "samples")


def draw_samples(model: Any, dataset: Any, number: int, folder: Path, *, min_score: float = 0.3) -> None:
    """Write `folder/<image id>.png` for the first `number` samples of a dataset: what is found, and the truth.

    The picture of an image shows the detections with a score of at least `min_score` beside the annotations; that of a
    pair shows the matches of its key-points, right and wrong. Other data is not drawn. Samples that cannot be read are
    left out.
    """
    model.eval()
    for index in range(min(number, len(dataset))):
        try:
            sample, annotations = dataset[index]
        except (ValueError, OSError):  # the evaluation has reported it
            continue
        if isinstance(annotations, Annotations):
            try:
                drawn = _draw_image(model, sample, annotations, dataset.label_map, min_score)
            except ThinImageError:
                continue
        elif isinstance(annotations, PairAnnotations):
            drawn = _draw_pair(model, sample, annotations)
        else:
            logger.info("no samples are drawn: there is no picture of %s", type(annotations).__name__)
            return
        folder.mkdir(exist_ok=True)
        name = index if annotations.image_id is None else annotations.image_id
        write_atomically(folder / f"{name}.png", partial(drawn.save, format="png"))


def _draw_image(model: Any, image: Tensor, annotations: Annotations, label_map: LabelMap, min_score: float) -> Image:
    from detkit.visualize import draw_comparison

    (found,) = model.predict([image], min_score=min_score)
    truth = Detections.of_annotations(annotations, label_map)
    return draw_comparison(image, found, truth, annotations.points)


def _draw_pair(model: Any, pair: ImagePair, annotations: PairAnnotations) -> Image:
    """The key-points of a pair; right within a tenth of the longer side of the target's box, or image without a box."""
    from detkit.visualize import draw_matches

    source, truth, box = annotations.source_points, annotations.target_points, annotations.target_box
    found = model.match(pair.source, pair.target, source)
    threshold = None if box is None else 0.1 * float((box[2:] - box[:2]).max())
    given = dict(confidence=found.confidence, truth=truth, threshold=threshold)
    return draw_matches(pair.source, pair.target, source, found.points, **given)


def build_writers(runner: Run) -> list[Hook]:
    """The writers that the config asks for; none in processes other than the main one.

    Raises:
        ConfigError: `train.tensorboard` is not "auto", True or False, or True without TensorBoard installed; or see
            `build_logger`.
    """
    options = runner.options
    wanted, installed = options["tensorboard"], importlib.util.find_spec("tensorboard") is not None
    if wanted not in ("auto", True, False):
        raise ConfigError(f"train.tensorboard: must be 'auto', True or False, got {wanted!r}")
    if wanted is True and not installed:
        raise ConfigError('train.tensorboard: tensorboard is not installed: pip install "detkit[tensorboard]"')
    if not is_main():
        return []
    writers: list[Hook] = [MetricsFiles(runner.out), Progress(), Curves()]
    if wanted and installed:
        writers.append(TensorBoard())
    writers += [build_logger(name) for name in options["loggers"]]
    if runner.val_data is not None and options["draw_samples"]:
        writers.append(DrawSamples(options["draw_samples"]))
    return writers
