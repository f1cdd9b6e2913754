"""Official ViDT checkpoints (naver-ai/vidt, Apache-2.0) as detkit models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from detkit.backbones import coat
from detkit.backbones.pretrained import count
from detkit.backbones.swin import VARIANTS
from detkit.modeling.image_model import ImageModel
from detkit.official.coco_classes import raw_coco_label_map
from detkit.official.layouts import COCO_PLACES, Layout, coco_detection
from detkit.official.report import ConversionReport, load_completely
from detkit.registry import build
from detkit.vidt import without_neck
from detkit.vidt.model import ViDT
from detkit.vidt.without_neck import ViDTWithoutNeck

# The official fusion has always four levels; the coarsest has nothing coarser to be fused with.
NEVER_USED = re.compile(
    r"transformer\.level_embed"
    r"|fusion\.multi_scaler\.refinenet_3\.(resConfUnit1|smoothing)\..*"
    r"|backbone\.layers\.\d+\.downsample\.(expansion|norm2)\..*"
    r"|backbone\.norm\d\..*"
    r"|.*\.relative_position_index"
)
# The decoder's references to the box heads.
DUPLICATES = "transformer.decoder.bbox_embed."
RENAMED = (
    (r"transformer\.decoder\.layers\.", "decoder."),
    (r"transformer\.enc_output_norm\.", "token_head.norm."),
    (r"transformer\.enc_output\.", "token_head.output."),
    (r"transformer\.token_embed\.", "token_head.classes."),
    (r"transformer\.", ""),
    (r"fusion\.multi_scaler\.layer_(\d+)_rn\.", r"input_proj.\1.0."),
    (r"fusion\.multi_scaler\.p_norm_(\d+)\.", r"input_proj.\1.1."),
    (r"fusion\.multi_scaler\.refinenet_(\d+)\.resConfUnit1\.", r"fusion.lateral.\1."),
    (r"fusion\.multi_scaler\.refinenet_(\d+)\.resConfUnit2\.", r"fusion.refine.\1."),
    (r"fusion\.multi_scaler\.refinenet_(\d+)\.smoothing\.", r"fusion.smoothing.\1."),
    (r"vector_embed\.\d+\.", "vector_embed."),
)
HEADS = 8
BACKBONE = "backbone."
# Official 1 x 1 convolutions over det tokens have two spatial dimensions, ours have one.
DET_TOKEN_CONVS = ("tgt_proj.0.weight", "query_pos_proj.0.weight")


def own_key(official: str) -> str | None:
    """Our name of an official parameter; None for one that the official forward pass never reads or that repeats."""
    if official.startswith(DUPLICATES) or NEVER_USED.fullmatch(official):
        return None
    if official.startswith(BACKBONE):
        return BACKBONE + coat.own_key(official.removeprefix(BACKBONE))  # leaves the names of Swin as they are
    for pattern, name in RENAMED:
        official, found = re.subn(f"^{pattern}", name, official)
        if found:
            break
    return official


def from_official(
    state_dict: Mapping[str, Tensor], *, cross_stages: Sequence[int] = (3,)
) -> tuple[ImageModel, ConversionReport]:
    """Build the model that an official state dict belongs to, by its key names and shapes, and load it completely.

    Args:
        state_dict: the official checkpoint's `model` entry: ViDT, ViDT+ or ViDT without neck, on Swin or CoaT of any
            size, with any number of tokens, classes and layers.
        cross_stages: the stages (from 0) with [DET] x [PATCH] attention, the one thing that no key tells.

    Returns:
        The model in eval mode, whose outputs are the raw COCO ids (91 in the released checkpoints), and a report.

    Raises:
        ValueError: not an official ViDT state dict, or one with a part that is unknown here; the keys are named.
    """
    has_neck = "class_embed.layers.0.weight" not in state_dict
    expected = ("backbone.det_token", "class_embed.0.weight" if has_neck else "bbox_embed.layers.2.weight")
    if missing := [key for key in expected if key not in state_dict]:
        raise ValueError(f"not an official ViDT state dict: it has no {' and no '.join(missing)}")
    weights, report = own_weights(state_dict, ("input_proj.0.weight",) if not has_neck else DET_TOKEN_CONVS)
    arguments = model_arguments(weights, state_dict) if has_neck else without_neck.model_arguments(weights)
    report.config = dict(arguments, backbone=backbone_config(weights, cross_stages))
    model = build(report.config, path="model")
    load_completely(model, weights)
    model.label_map = raw_coco_label_map(report.config["num_classes"])
    return model, report


def own_weights(
    state_dict: Mapping[str, Tensor], over_tokens: Sequence[str]
) -> tuple[dict[str, Tensor], ConversionReport]:
    """The tensors under our names, and what became of every key."""
    report = ConversionReport()
    weights: dict[str, Tensor] = {}
    layers = count(r"transformer\.decoder\.layers\.(\d+)\.", state_dict)
    last_vector = count(r"vector_embed\.(\d+)\.", state_dict) - 1
    for key, value in state_dict.items():
        name, stage, is_vector = own_key(key), stage_of(key), key.startswith("vector_embed.")
        if key.startswith(DUPLICATES) or (is_vector and stage < last_vector):
            report.duplicates.append(key)
        elif coat.SHARED.match(key.removeprefix(BACKBONE)):
            report.duplicates.append(key)
            weights[str(name)] = value  # of repetitions the last one counts, as in torch's own loading
        elif name is None or (stage > layers and not is_vector):
            report.unused.append(key)
        else:
            weights[name] = value[..., 0] if name in over_tokens else value
            report.loaded.append(key)
    return weights, report


def backbone_config(weights: Mapping[str, Tensor], cross_stages: Sequence[int]) -> dict[str, Any]:
    """The config of the backbone that the weights belong to."""
    if "backbone.stages.0.cls_token" not in weights:
        return {"type": "Swin", **swin_arguments(weights, cross_stages)}
    own = {key.removeprefix(BACKBONE): value for key, value in weights.items() if key.startswith(BACKBONE)}
    arguments = coat.coat_arguments(own)
    return {"type": "CoaT", **arguments, "cross_stages": list(cross_stages), "positions_after_norm": True}


def stage_of(key: str) -> int:
    """The stage whose head a key belongs to; 0 where it belongs to none."""
    found = re.match(r"(?:class|bbox|iou|vector)_embed\.(\d+)\.", key)
    return int(found[1]) if found else 0


def swin_arguments(weights: Mapping[str, Tensor], cross_stages: Sequence[int]) -> dict[str, Any]:
    """Arguments of `Swin` that fit the weights."""
    stages = count(r"backbone\.layers\.(\d+)\.", weights)
    depths = [count(rf"backbone\.layers\.{i}\.blocks\.(\d+)\.", weights) for i in range(stages)]
    tables = [weights[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
    tokens, embed_dim = weights["backbone.det_token"].shape[1:]
    rates = {(v["embed_dim"], v["depths"]): v["drop_path"] for v in VARIANTS.values()}
    return dict(
        num_tokens=tokens,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=[table.shape[1] for table in tables],
        drop_path=rates.get((embed_dim, tuple(depths)), 0.0),
        window=(round(len(tables[0]) ** 0.5) + 1) // 2,
        cross_stages=list(cross_stages),
        pos_dim=weights["backbone.det_pos_embed"].shape[2],
        reduced_map=f"backbone.layers.{stages - 1}.downsample.norm.weight" in weights,
    )


def model_arguments(weights: Mapping[str, Tensor], official: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `ViDT`, besides the backbone, that fit the weights. The official code has always 8 heads."""
    num_classes, hidden_dim = weights["class_embed.0.weight"].shape
    layers, levels = count(r"decoder\.(\d+)\.", weights), count(r"input_proj\.(\d+)\.", weights)
    arguments: dict[str, Any] = dict(
        type=ViDT.__name__,
        num_classes=num_classes,
        hidden_dim=hidden_dim,
        decoder_layers=layers,
        heads=HEADS,
        box_refine=any(key.startswith(DUPLICATES) for key in official),
        fusion="fusion.refine.0.conv1.weight" in weights,
        iou_aware="iou_embed.0.layers.0.weight" in weights,
        token_labels="token_head.output.weight" in weights,
        criterion=dict(type="SetCriterion", official=True),
    )
    if "vector_embed.layers.0.weight" in weights:
        arguments["mask_vectors"] = len(weights["vector_embed.layers.2.bias"])
        arguments["vector_hidden_dim"] = len(weights["vector_embed.layers.0.bias"])
    if layers:
        arguments["points"] = len(weights["decoder.0.cross_attn.attention_weights.bias"]) // (HEADS * levels)
        arguments["ffn_dim"] = len(weights["decoder.0.linear1.bias"])
    return arguments


def _config(model: Mapping[str, Any]) -> dict[str, Any]:
    return coco_detection(("bbox", "segm") if model.get("mask_vectors") else ("bbox",))


LAYOUTS = (
    Layout(
        name="ViDT",
        types=(ViDT.__name__, ViDTWithoutNeck.__name__),
        landmarks=("backbone.det_token",),
        convert=from_official,
        options=("cross_stages",),
        config=_config,
        places=COCO_PLACES,
    ),
)
