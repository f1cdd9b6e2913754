"""Smaller detectors of a trained ViDT: fewer decoder layers and [DET] tokens, smaller input; not trained again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from detkit.checkpoints.weights import build_stored, load_strictly, make_header, read_weights, save_weights
from detkit.registry import ConfigError
from detkit.vidt.model import ViDT

TOKENS = ("backbone.det_token", "backbone.det_pos_embed")  # [1, tokens, channels]


@dataclass(frozen=True)
class Shape:
    """What of a ViDT is made smaller.

    Attributes:
        layers: decoder layers, the first ones.
        tokens: which [DET] tokens stay, in this order.
        queries: of a ViDT with proposals; None elsewhere, or where there is one for each token.
        shortest, longest: of the input rule, in pixels.
    """

    layers: int
    tokens: tuple[int, ...]
    queries: int | None
    shortest: int
    longest: int

    @property
    def objects(self) -> int:
        """The most objects that it finds in an image."""
        return self.queries or len(self.tokens)


class Shrinker:
    """Builds smaller detectors of one checkpoint.

    Args:
        path: the checkpoint of a ViDT.

    Raises:
        ConfigError: the checkpoint of another model.
        CheckpointError: an unreadable file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.weights, self.header = read_weights(path)
        model = build_stored(self.header, path)
        if not isinstance(model, ViDT):
            raise ConfigError(f"{path} holds a {type(model).__name__}: only ViDT has layers and tokens to leave out")
        self.has_proposals = model.proposals is not None
        rule = model.input_rule
        tokens = tuple(range(model.backbone.num_tokens))
        self.full = Shape(len(model.decoder), tokens, model.queries, rule.shortest, rule.longest)

    def with_objects(self, objects: int, ranking: Sequence[int] | None = None) -> tuple[tuple[int, ...], int | None]:
        """The tokens and queries of a detector that finds at most so many objects.

        Args:
            ranking: the tokens by use, the most used first. With proposals their order decides nothing, and the first
                stay.
        """
        order = list(range(len(self.full.tokens))) if ranking is None or self.has_proposals else list(ranking)
        kept = tuple(sorted(order[: min(objects, len(order))]))
        return kept, objects if self.full.queries is not None else None

    def sides(self, scale: float) -> tuple[int, int]:
        """The shortest and longest side of the input rule times `scale`, as multiples of its `multiple`."""
        rule = self.header["input_rule"]
        multiple = rule["multiple"]
        shortest, longest = (
            max(multiple, round(rule[k] * scale / multiple) * multiple) for k in ("shortest", "longest")
        )
        return shortest, max(shortest, longest)

    def build(self, shape: Shape) -> ViDT:
        """The detector of that shape, on the CPU, in eval mode."""
        header = {**self.header, "config": self.config(shape, layers=self.full.layers)}
        model = build_stored(header, self.path)
        assert isinstance(model, ViDT)
        load_strictly(model, self._selected(shape.tokens), self.path)
        if shape.layers < self.full.layers:
            model.keep_layers(shape.layers)
        model.input_rule = replace(model.input_rule, shortest=shape.shortest, longest=shape.longest)
        model.thresholds = self.header.get("thresholds")
        return model.eval()

    def config(self, shape: Shape, *, layers: int | None = None) -> dict[str, Any]:
        """The config of the detector of that shape."""
        config = copy.deepcopy(self.header["config"])
        model = config["model"]
        model["decoder_layers"] = shape.layers if layers is None else layers
        model["backbone"]["num_tokens"] = len(shape.tokens)
        if shape.queries is not None:
            model["queries"] = shape.queries
        rule = {**self.header["input_rule"], "shortest": shape.shortest, "longest": shape.longest}
        model["input_rule"] = rule
        return config

    def save(self, shape: Shape, path: Path, metrics: Mapping[str, float]) -> None:
        """Write the detector of that shape as a checkpoint, atomically."""
        model = self.build(shape)
        header = make_header(self.config(shape), model, metrics=metrics, shrunk_from=str(self.path))
        if model.thresholds is not None:
            header["thresholds"] = model.thresholds
        save_weights(path, model.state_dict(), header)

    def _selected(self, tokens: Sequence[int]) -> dict[str, Tensor]:
        keep = list(tokens)
        return {name: value[:, keep] if name in TOKENS else value for name, value in self.weights.items()}
