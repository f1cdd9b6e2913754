"""Fine-tuning: starting a run with the weights of another model, whose classes may differ."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from detkit.checkpoints.files import find_weights
from detkit.checkpoints.folding import fold
from detkit.checkpoints.header import require
from detkit.checkpoints.weights import check_finite, read_weights
from detkit.download.fetch import is_url, local_file
from detkit.modeling.base import InputRule, Model
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.runtime.processes import on_main
from detkit.runtime.random_state import unchanged_random_state
from detkit.structures import LabelMap

logger = logging.getLogger(__name__)

# Learned parameters [1, n, c] of the det tokens. For another number of tokens the first ones are copied.
DET_TOKENS = ("det_token", "det_pos_embed")
SHOWN_CLASSES = 10


@dataclass
class Transfer:
    """What became of each tensor of the model and of the checkpoint.

    Attributes:
        known, unknown: names of the model's classes that the checkpoint has and has not.
        outcomes: by tensor name: "kept", "remapped ...", "partly: ...", "new ..." or "left out".
        sizes: elements of each tensor.
    """

    known: list[str]
    unknown: list[str]
    outcomes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many tensors had each outcome."""
        counts = Counter(outcome.split()[0].rstrip(":,") for outcome in self.outcomes.values())
        return {kind: counts[kind] for kind in ("kept", "remapped", "partly", "new", "left")}

    def table(self) -> str:
        """A line for each module or tensor whose outcome differs from that of its neighbours, and the sums."""
        rows = [
            (
                row.pattern,
                row.outcome,
                f"{len(row.names)}",
                f"{sum(self.sizes[name] for name in row.names) / 1e6:.2f} M",
            )
            for row in fold(self.outcomes)
        ]
        rows.insert(0, ("module", "what happened", "tensors", "elements"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"  {name:{widths[0]}}  {outcome:{widths[1]}}  {number:>{widths[2]}}  {size:>{widths[3]}}"
            for name, outcome, number, size in rows
        ]
        sums = ", ".join(f"{count} {'left out' if kind == 'left' else kind}" for kind, count in self.counts().items())
        classes = f"{_list('known', self.known)}, {_list('new', self.unknown)}"
        return "\n".join([*lines, f"  tensors: {sums}", f"  classes: {classes}"])


def initialize(model: Model, config: dict[str, Any], source: Any, *, say: Callable[[str], Any]) -> None:
    """Load the weights that `train.init_from` names into a new run's model, and print what became of each part.

    Args:
        model: built by `config`, the "model" section.
        source: a checkpoint: a file, the folder of a run, the name of a published model or a URL.
        say: takes the table of what became of each part.

    Raises:
        ConfigError: the file cannot be had, is no detkit checkpoint, or has nothing that fits the model.
    """
    try:
        weights, header = read_weights(_file_for_all(source))
        require(header, source)
        check_finite(weights, source)
    except (ValueError, OSError) as error:
        raise ConfigError(f"train.init_from: {error}") from error
    old = LabelMap(**header["label_map"])
    same_classes = old.names == model.label_map.names
    by_class = set() if same_classes else class_tensors(config, model)
    transfer = transfer_weights(model, weights, old, by_class)
    if not any(transfer.counts()[kind] for kind in ("kept", "remapped", "partly")):
        raise ConfigError(f"train.init_from: nothing in {source} fits the model: {_examples(weights, model)}")
    _compare_normalisation(header["input_rule"], model.input_rule)
    say(f"initial weights from {source}:\n{transfer.table()}")


def transfer_weights(model: Model, weights: Mapping[str, Tensor], old: LabelMap, by_class: Collection[str]) -> Transfer:
    """Copy into `model` what fits of `weights`; the rest of the model stays as it is.

    Args:
        old: what the classifier outputs in `weights` mean. Rows of a class that the model has too, by a name that
            differs at most in case, go where the model has it; outputs without a name never match.
        by_class: names of the model's tensors that depend on its classes; empty where the classes are the same.
    """
    sources = matching_outputs(old, model.label_map)
    names = [str(name) for name in model.label_map.names]
    known = [source is not None for source in sources]
    transfer = Transfer(
        [name for name, is_known in zip(names, known, strict=True) if is_known],
        [name for name, is_known in zip(names, known, strict=True) if not is_known],
    )
    state = model.state_dict()
    for name, tensor in state.items():
        if name not in weights:
            outcome = "new"
        elif name in by_class:
            outcome = _copy_rows(tensor, weights[name], sources, len(old))
        else:
            outcome = _copy(name, tensor, weights[name])
        transfer.outcomes[name], transfer.sizes[name] = outcome, tensor.numel()
    for name, tensor in weights.items():
        if name not in state:
            transfer.outcomes[name], transfer.sizes[name] = "left out", tensor.numel()
    return transfer


def matching_outputs(old: LabelMap, new: LabelMap) -> list[int | None]:
    """For each output of `new`, the output of `old` with its name; the same case is preferred to another one."""
    exact = {name: i for i, name in reversed(list(enumerate(old.names))) if name is not None}
    folded = {name.casefold(): i for name, i in exact.items()}
    return [None if name is None else exact.get(name, folded.get(name.casefold())) for name in new.names]


def class_tensors(config: dict[str, Any], model: Model) -> set[str]:
    """The tensors of the model of a config whose shape depends on the number of classes.

    One class more is tried out: shapes alone do not tell a classifier of 4 classes from a box head.
    """
    config = {key: value for key, value in config.items() if key != "num_classes"}
    with unchanged_random_state():
        larger = build_model(config, LabelMap.numbered(len(model.label_map) + 1), pretrained=False)
    shapes = {name: tensor.shape for name, tensor in larger.state_dict().items()}
    return {name for name, tensor in model.state_dict().items() if tensor.shape != shapes.get(name)}


def _copy(name: str, tensor: Tensor, source: Tensor) -> str:
    if tensor.shape == source.shape:
        tensor.copy_(source)
        return "kept"
    if name.endswith(DET_TOKENS) and tensor.shape[::2] == source.shape[::2]:
        number = min(tensor.shape[1], source.shape[1])
        tensor[:, :number] = source[:, :number]
        return f"partly: first {number} of {source.shape[1]} tokens, {tensor.shape[1]} here"
    return "new (another shape in the checkpoint)"


def _copy_rows(tensor: Tensor, source: Tensor, sources: Sequence[int | None], old_classes: int) -> str:
    """One output may stand behind those of the classes, "no object" of a softmax; it stays the last."""
    extra = len(tensor) - len(sources)
    if extra not in (0, 1) or len(source) - old_classes != extra or tensor.shape[1:] != source.shape[1:]:
        return "new (depends on the classes)"
    rows = [(row, source_row) for row, source_row in enumerate(sources) if source_row is not None]
    if not rows:
        return "new (no class in common)"
    for row, source_row in [*rows, (-1, -1)] if extra else rows:
        tensor[row] = source[source_row]
    return f"remapped {len(rows)} of {len(sources)} classes"


def _file_for_all(source: Any) -> Path:
    """The local file, which only the main process downloads; errors arise in all processes."""
    if not isinstance(source, str):
        raise ConfigError(f"expected a file, a URL or the name of a published model, got {source!r}")

    def have() -> Path:
        return local_file(source if is_url(source) else find_weights(source))

    on_main(have)
    return have()


def _examples(weights: Mapping[str, Tensor], model: Model) -> str:
    """A few names and shapes of both sides."""
    sides = {"the checkpoint": weights, "the model": model.state_dict()}
    some = (
        f"{side} has {', '.join(f'{name} {tuple(tensors[name].shape)}' for name in list(tensors)[:3])}, ..."
        for side, tensors in sides.items()
    )
    return "; ".join(some)


def _compare_normalisation(stored: Mapping[str, Any], rule: InputRule) -> None:
    for name in ("mean", "std"):
        then, now = tuple(stored[name]), tuple(getattr(rule, name))
        if then != now:
            logger.warning("train.init_from: trained with pixel %s %s, this run uses %s", name, then, now)


def _list(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN_CLASSES]) + (", ..." if len(names) > SHOWN_CLASSES else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
