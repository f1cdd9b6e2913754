"""Fitting a trained ViDT to a latency: which decoder layers, [DET] tokens and input size keep the most AP."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkit.checkpoints.smaller.shrink import Shape, Shrinker
from detkit.console import Console
from detkit.data.loading import eval_loader
from detkit.files import write_json, write_text
from detkit.runtime.components import build_evaluation, build_evaluator
from detkit.structures.protocols import Dataset
from detkit.vidt.model import ViDT
from detkit.vidt.outputs import Stages

SCALES = (1.0, 0.8, 0.65, 0.5)
SHARES = (1.0, 0.5, 0.25)
CALLS, WARM_UP = 5, 2
MEASURED = 2.0  # times the latency: what is slower is not evaluated
AP = "bbox/AP"
HEAD = "| input | decoder layers | objects | ms | box AP |\n|---|---|---|---|---|\n"


@dataclass
class Candidate:
    """A smaller detector.

    Attributes:
        shape: what of the checkpoint it has.
        ms: the median time of a photo, from its pixels to the detections.
        ap: box AP in 0..1; None where it was not measured.
        chosen: whether it was written.
    """

    shape: Shape
    ms: float
    ap: float | None = None
    chosen: bool = False

    def row(self) -> str:
        """A row of the table."""
        ap = "" if self.ap is None else f"{100 * self.ap:.1f}"
        cells = [f"{self.shape.shortest}", f"{self.shape.layers}", f"{self.shape.objects}", f"{self.ms:.1f}", ap]
        return "| " + " | ".join(f"**{cell}**" if self.chosen and cell else cell for cell in cells) + " |\n"

    def to_dict(self) -> dict[str, Any]:
        """The figures, for the json file."""
        shape = self.shape
        figures = dict(shortest=shape.shortest, longest=shape.longest, layers=shape.layers, objects=shape.objects)
        return dict(**figures, ms=self.ms, ap=self.ap, chosen=self.chosen)


def fit(checkpoint: Path, config: dict[str, Any], out: Path, *, latency_ms: float, device: torch.device) -> Candidate:
    """Measure smaller detectors of a checkpoint and write the best of those that are fast enough.

    Writes into `out`: `table.md`, `table.json`, `latency.png` and, if one is fast enough, `fitted.safetensors`.

    Args:
        checkpoint: of a ViDT.
        config: its "data.val" and "evaluator" say what it is measured on.
        latency_ms: the most milliseconds of a photo of the middle size of the validation images, batch 1.
        device: where everything is measured.

    Returns:
        The detector written.

    Raises:
        ValueError: no ViDT, or none is fast enough; the message tells the fastest.
    """
    shrinker = Shrinker(checkpoint)
    dataset, _ = build_evaluation(config, shrinker.build(shrinker.full).label_map)
    study = _Study(shrinker, dataset, config, device)
    found = study.measure(latency_ms)
    fast = [one for one in found if one.ms <= latency_ms and one.ap is not None]
    best = max(fast, key=lambda one: (one.ap, -one.ms), default=None)
    if best is not None:
        best.chosen = True
    _write(found, out, latency_ms)
    if best is None:
        first = min(found, key=lambda one: one.ms)
        what = f"{first.shape.shortest} pixels, {first.shape.layers} decoder layers, {first.shape.objects} objects"
        raise ValueError(f"nothing takes at most {latency_ms:g} ms: the fastest takes {first.ms:.1f} ms ({what})")
    assert best.ap is not None
    shrinker.save(best.shape, out / "fitted.safetensors", {AP: best.ap})
    return best


class _Study:
    """The measurements; with proposals [DET] tokens are alike, without them the most used ones stay."""

    def __init__(self, shrinker: Shrinker, dataset: Dataset, config: dict[str, Any], device: torch.device):
        self.shrinker, self.dataset, self.config, self.device = shrinker, dataset, config, device
        self.image = _middle_image(dataset)
        self.console = Console(sys.stderr)

    def measure(self, latency_ms: float) -> list[Candidate]:
        full = self.shrinker.full
        layers = layer_numbers(full.layers)
        ranking = None if self.shrinker.has_proposals else self._use_of_tokens()
        groups = list(self._groups(ranking))
        found: list[Candidate] = []
        for number, shape in enumerate(groups, 1):
            self.console.progress((number - 0.5) / len(groups), f"{shape.shortest} pixels, {shape.objects} objects")
            own = [Candidate(replace(shape, layers=n), self._time(replace(shape, layers=n))) for n in layers]
            if shape == full or min(one.ms for one in own) <= MEASURED * latency_ms:
                self._evaluate(own)
            found += own
        self.console.clear()
        return found

    def _groups(self, ranking: list[int] | None) -> Iterator[Shape]:
        full, seen = self.shrinker.full, set()
        for scale in SCALES:
            sides = self.shrinker.sides(scale) if scale < 1 else (full.shortest, full.longest)
            for share in SHARES:
                objects = max(1, round(full.objects * share))
                tokens, queries = self.shrinker.with_objects(objects, ranking)
                if (sides, objects) not in seen:
                    seen.add((sides, objects))
                    yield Shape(full.layers, tokens, queries, *sides)

    def _time(self, shape: Shape) -> float:
        model, spent = self.shrinker.build(shape).to(self.device), []
        for _ in range(WARM_UP + CALLS):
            start = time.perf_counter()
            model.predict(self.image)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            spent.append(1000 * (time.perf_counter() - start))
        return statistics.median(spent[WARM_UP:])

    def _evaluate(self, candidates: Sequence[Candidate]) -> None:
        """The AP of candidates that differ in their layers only: each stage of one pass predicts for one of them."""
        model = self.shrinker.build(replace(candidates[0].shape, layers=self.shrinker.full.layers)).to(self.device)
        evaluators = [build_evaluator(self.config, self.dataset) for _ in candidates]
        for batch, stages in _passes(model, self.dataset, self.device):
            sizes = [a.original_size or s for a, s in zip(batch.annotations, batch.images.sizes, strict=True)]
            for one, evaluator in zip(candidates, evaluators, strict=True):
                stage = slice(one.shape.layers, one.shape.layers + 1)
                found = model.postprocess(Stages(stages.logits[stage], stages.boxes[stage]), sizes)
                evaluator.update([detections.cpu() for detections in found], batch.annotations)
        for one, evaluator in zip(candidates, evaluators, strict=True):
            one.ap = float(evaluator.compute()[AP])

    def _use_of_tokens(self) -> list[int]:
        """The tokens, first those whose best scores on the validation images are highest in sum."""
        model = self.shrinker.build(self.shrinker.full).to(self.device)
        use = torch.zeros(len(self.shrinker.full.tokens), device=self.device)
        for _, stages in _passes(model, self.dataset, self.device):
            use += stages.logits[-1].float().sigmoid().amax(-1).sum(0)
        return use.argsort(descending=True).tolist()


@torch.inference_mode()
def _passes(model: ViDT, dataset: Dataset, device: torch.device) -> Iterator[tuple[Any, Stages]]:
    """The batches of the validation images and what all stages of the model predict for them."""
    loader: Iterable[Any] = eval_loader(dataset, model.input_rule.resize, batch_size=1)
    for batch in loader:
        batch = batch.to(device)
        yield batch, model.forward_stages(model.normalize(batch.images))


def layer_numbers(layers: int) -> list[int]:
    """All decoder layers, half, a quarter of them, and one."""
    return sorted({layers, -(-layers // 2), -(-layers // 4), min(1, layers)}, reverse=True)


def _middle_image(dataset: Any) -> Tensor:
    """The validation image of the middle area, uint8 `[3, h, w]`."""
    areas = dataset.sizes.prod(axis=1)
    return dataset[int(areas.argsort(kind="stable")[len(areas) // 2])][0]


def _write(found: Sequence[Candidate], out: Path, latency_ms: float) -> None:
    from detkit.visualize import plot_latency

    out.mkdir(parents=True, exist_ok=True)
    rows = sorted(found, key=lambda one: one.ms)
    write_text(out / "table.md", HEAD + "".join(one.row() for one in rows))
    write_json(out / "table.json", [one.to_dict() for one in rows])
    if any(one.ap is not None for one in rows):
        plot_latency([one.to_dict() for one in rows], latency_ms, out / "latency.png")
