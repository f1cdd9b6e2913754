"""Machine annotation of datasets: of held-out pairs, to measure the precision, and of pairs to learn from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from detkit.correspondence.annotate import MachinePoints, Rules, annotate
from detkit.correspondence.matcher import Matcher
from detkit.data.loading import eval_loader
from detkit.data.pairs.annotated import write_points
from detkit.data.pairs.dataset import PairDataset
from detkit.data.pairs.pool import ImagePool, PoolPairs, draw_pairs
from detkit.pipelines.matchme.quality import Quality, judge
from detkit.runtime.evaluate import autocast
from detkit.structures import PairAnnotations, PairBatch

logger = logging.getLogger(__name__)


def annotate_pairs(
    matcher: Matcher, dataset: PairDataset, rules: Rules, *, loading: dict[str, Any], precision: str = "auto"
) -> Iterator[tuple[PairAnnotations, MachinePoints]]:
    """The machine annotations of all pairs of a dataset that can be read.

    Args:
        loading: `batch_size`, `workers` and `skip_broken` of `detkit.data.loading.eval_loader`.
        precision: see `detkit.runtime.evaluate.autocast`.
    """
    device = next(matcher.buffers()).device
    for batch in eval_loader(dataset, matcher.input_rule.resize, **loading):
        assert isinstance(batch, PairBatch)
        with autocast(precision, device):
            found = annotate(matcher, batch.to(device), rules)
        yield from zip(batch.annotations, found, strict=True)


def judge_pairs(
    matcher: Matcher, dataset: PairDataset, rules: Rules, *, threshold: str, alpha: float, **options: Any
) -> Quality:
    """The quality of the annotations of labelled pairs; `options` as in `annotate_pairs`."""
    pairs = list(annotate_pairs(matcher, dataset, rules, **options))
    return judge(matcher, [m for _, m in pairs], [known for known, _ in pairs], threshold=threshold, alpha=alpha)


def write_pseudo_pairs(
    path: Path,
    matcher: Matcher,
    pool: ImagePool,
    rules: Rules,
    *,
    labelled: PairDataset,
    number: int,
    seed: Any,
    info: dict[str, Any],
    **options: Any,
) -> dict[str, Any]:
    """Annotate pairs of the pool that are not labelled, and write those that have reliable matches.

    Returns:
        Counts: "pairs" annotated, "kept" with reliable matches, and "cells", the number of these matches.
    """
    known = {(side.file, other.file) for side, other in map(labelled.sides, labelled.image_ids)}
    drawn = draw_pairs(pool, number, seed=seed, forbidden=known)
    if len(drawn) < number:
        logger.info("the pool has %d of the %d pairs that rounds.pairs asks for", len(drawn), number)
    rows: list[dict[str, Any]] = []
    for pair, machine in annotate_pairs(matcher, PoolPairs(pool, drawn), rules, **options):
        if len(machine):
            assert pair.pair_id is not None
            source, target = ([image, pool.sides[image].file.name] for image in drawn[pair.pair_id])
            rows.append({"source": source, "target": target, "points": as_rows(machine)})
    counts = {"pairs": len(drawn), "kept": len(rows), "cells": sum(len(row["points"]) for row in rows)}
    write_points(path, rows, info=info | counts)
    return counts


def write_densified_pairs(
    path: Path,
    matcher: Matcher,
    labelled: PairDataset,
    rules: Rules,
    *,
    info: dict[str, Any],
    **options: Any,
) -> int:
    """Annotate labelled pairs, write the additional points, and return their number.

    Cells that are already covered by a key-point label are skipped.
    """
    rows: list[dict[str, Any]] = []
    for pair, machine in annotate_pairs(matcher, labelled, rules, **options):
        kept = skip_labelled_cells(matcher, pair, machine)
        if len(kept):
            rows.append({"pair": pair.pair_id, "points": as_rows(kept)})
    write_points(path, rows, info=info)
    return sum(len(row["points"]) for row in rows)


def skip_labelled_cells(matcher: Matcher, pair: PairAnnotations, machine: MachinePoints) -> MachinePoints:
    """The machine annotations of cells that no key-point of the pair labels (see `sparse_flow`)."""
    assert pair.target_size is not None
    if not len(pair):
        return machine
    cells = matcher.to_square(machine.target, pair.target_size)
    truth = matcher.to_square(pair.target_points.float(), pair.target_size)
    free = (cells[:, None] - truth).abs().amax(2).amin(1) > matcher.field // 2
    return MachinePoints(machine.source[free], machine.target[free], machine.confidence[free])


def as_rows(machine: MachinePoints) -> list[list[float]]:
    """[source x, source y, target x, target y, confidence] of each point."""
    table = torch.cat([machine.source, machine.target, machine.confidence[:, None]], dim=1).double()
    return [[*(round(v, 2) for v in row[:4]), round(row[4], 4)] for row in table.tolist()]
