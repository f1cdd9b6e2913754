"""Official ViDT checkpoints (naver-ai/vidt, Apache-2.0) as detkit models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detkit.backbones.swin import VARIANTS, Swin
from detkit.coco_classes import raw_coco_label_map
from detkit.vidt.model import ViDT

NEVER_USED = re.compile(
    r"transformer\.level_embed"
    r"|backbone\.layers\.\d+\.downsample\.(expansion|norm2)\..*"
    r"|backbone\.norm\d\..*"
    r"|.*\.relative_position_index"
)
DUPLICATES = "transformer.decoder.bbox_embed."
HEADS = 8


@dataclass
class ConversionReport:
    """What became of an official state dict.

    Attributes:
        loaded: official keys whose tensors the model now holds.
        duplicates: keys that repeat a loaded tensor (the decoder's references to the box heads).
        unused: keys that the official forward pass never reads, which are left out.
    """

    loaded: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.loaded)} tensors loaded, {len(self.duplicates)} duplicates of them, "
            f"{len(self.unused)} never used by the official code"
        )


def own_key(official: str) -> str | None:
    """Our name of an official parameter; None for one that the official forward pass never reads or that repeats."""
    if official.startswith(DUPLICATES) or NEVER_USED.fullmatch(official):
        return None
    return official.replace("transformer.decoder.layers.", "decoder.").removeprefix("transformer.")


def from_official(
    state_dict: Mapping[str, Tensor], *, cross_stages: Sequence[int] = (3,)
) -> tuple[ViDT, ConversionReport]:
    """Build the model that an official state dict belongs to, by its key names and shapes, and load it completely.

    Args:
        state_dict: the official checkpoint's `model` entry: any Swin size, number of tokens, classes and layers.
        cross_stages: the stages (from 0) with [DET] x [PATCH] attention, the one thing that no key tells.

    Returns:
        The model in eval mode, whose outputs are the raw COCO ids (91 in the released checkpoints), and a report.

    Raises:
        ValueError: not an official ViDT state dict, or one with a part that is unknown here; the keys are named.
    """
    if missing := [key for key in ("backbone.det_token", "class_embed.0.weight") if key not in state_dict]:
        raise ValueError(f"not an official ViDT state dict: it has no {' and no '.join(missing)}")
    report, weights = ConversionReport(), {}
    for key, value in state_dict.items():
        name = own_key(key)
        if name is None:
            (report.duplicates if key.startswith(DUPLICATES) else report.unused).append(key)
        else:
            weights[name] = value[..., 0] if name in ("tgt_proj.0.weight", "query_pos_proj.0.weight") else value
            report.loaded.append(key)
    model = ViDT(Swin(**swin_arguments(weights, cross_stages)), **model_arguments(weights, state_dict))
    problems = model.load_state_dict(weights, strict=False)
    if problems.missing_keys or problems.unexpected_keys:
        raise ValueError(
            f"cannot convert: {len(problems.unexpected_keys)} tensors belong to no part known here "
            f"{problems.unexpected_keys[:5]}, {len(problems.missing_keys)} are missing {problems.missing_keys[:5]}"
        )
    model.label_map = raw_coco_label_map(len(weights["class_embed.0.weight"]))
    return model.eval(), report


def swin_arguments(weights: Mapping[str, Tensor], cross_stages: Sequence[int]) -> dict[str, Any]:
    """Arguments of `Swin` that fit the weights."""

    def count(pattern: str) -> int:
        found = [re.match(pattern, key) for key in weights]
        return 1 + max((int(m.group(1)) for m in found if m), default=-1)

    stages = count(r"backbone\.layers\.(\d+)\.")
    depths = tuple(count(rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages))
    tables = [weights[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
    tokens, embed_dim = weights["backbone.det_token"].shape[1:]
    rates = {(v["embed_dim"], v["depths"]): v["drop_path"] for v in VARIANTS.values()}
    return dict(
        num_tokens=tokens,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=tuple(table.shape[1] for table in tables),
        drop_path=rates.get((embed_dim, depths), 0.0),
        window=(round(len(tables[0]) ** 0.5) + 1) // 2,
        cross_stages=cross_stages,
        pos_dim=weights["backbone.det_pos_embed"].shape[2],
    )


def model_arguments(weights: Mapping[str, Tensor], official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `ViDT`, besides the backbone, that fit the weights. The official code has always 8 heads."""
    num_classes, hidden_dim = weights["class_embed.0.weight"].shape
    layers = len({key.split(".")[1] for key in weights if key.startswith("decoder.")})
    levels = len({key.split(".")[1] for key in weights if key.startswith("input_proj.")})
    arguments = dict(
        num_classes=num_classes,
        hidden_dim=hidden_dim,
        decoder_layers=layers,
        heads=HEADS,
        box_refine=any(key.startswith(DUPLICATES) for key in official),
    )
    if layers:
        arguments["points"] = len(weights["decoder.0.cross_attn.attention_weights.bias"]) // (HEADS * levels)
        arguments["ffn_dim"] = len(weights["decoder.0.linear1.bias"])
    return arguments
