"""Official CATs and CATs++ checkpoints as detkit models.

They come from SunghwanHong/Cost-Aggregation-transformers and KU-CVLAB/CATs-PlusPlus; checkpoints of SemiMatch and of
other works on CATs have the same layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detkit.backbones.pretrained import count
from detkit.backbones.resnet import DEPTHS, resnet_depth
from detkit.correspondence.cats import CATs
from detkit.correspondence.catspp import CATsPlusPlus
from detkit.correspondence.features.maps import SPAIR_LAYERS, ResNetLayers
from detkit.correspondence.matcher import Matcher
from detkit.official.layouts import Layout
from detkit.official.report import ConversionReport, load_completely, without_prefix
from detkit.registry import build
from detkit.structures import LabelMap

HEADS = 6
# Most categories of a benchmark of matching; their ids count from 1.
PAIR_CATEGORIES = 20
PAIR_PLACES = "data.val.root=FOLDER"  # where the data of the evaluation lies
STRIDE = 16
BLOCK_PARTS = {
    "norm1": "across_cells.norm",
    "attn": "across_cells.part",
    "norm4": "level_mlp.norm",
    "mlp2": "level_mlp.part",
    "norm3": "across_levels.norm",
    "attn_multiscale": "across_levels.part",
    "norm2": "mlp.norm",
    "mlp": "mlp.part",
}
NOT_WITH_ONE_LEVEL = ("norm3", "norm4", "mlp2", "attn_multiscale")
NEVER_USED = re.compile(r".*\.fc\.(weight|bias)|.*\.num_batches_tracked|decoder\.norm\..*")
PYRAMID_RENAMED = (
    (r"^early_conv\.(\d+)\.conv4d\.0\.0\.", r"encoders.\1.conv."),
    (r"^early_conv\.(\d+)\.conv4d\.0\.1\.", r"encoders.\1.norm."),
    (r"^affinity_proj\.(\d+)\.0\.", r"appearance.\1."),
    (r"^transformers\.(\d+)\.layer\.0\.", r"layers.\1."),
    (r"pos_embed$", "position"),
    (r"qk\.conv\.0\.", "token_conv.conv."),
    (r"qk\.conv\.1\.", "token_conv.norm."),
    (r"qk\.linear\.", "token_linear."),
    (r"\bv\.0\.", "value_conv.conv."),
    (r"\bv\.1\.", "value_conv.norm."),
    (r"mlp\.mlp\.0\.", "mlp.conv1."),
    (r"mlp\.mlp\.2\.", "mlp.conv2."),
    (r"query_conv\.", "target."),
    (r"supp_conv\.", "source."),
)


def from_official(
    state_dict: Mapping[str, Tensor], layers: Sequence[int] | None = None
) -> tuple[Matcher, ConversionReport]:
    """Build the model that an official state dict belongs to, by its key names and shapes, and load it completely.

    Args:
        state_dict: the official checkpoint's `state_dict` entry: CATs or CATs++ with ResNet-50 or ResNet-101.
        layers: the backbone layers of CATs, which the checkpoint does not state; None for the list of SPair-71k with
            ResNet-101. CATs++ always has the same layers.

    Returns:
        `CATs` or `CATsPlusPlus` in eval mode, and a report.

    Raises:
        ValueError: not an official state dict, layers that do not fit it, or a part that is unknown here; the keys are
            named.
    """
    state_dict = without_prefix(state_dict)
    if "proj.0.weight" in state_dict and "x_normal" in state_dict:
        layers = SPAIR_LAYERS if layers is None else layers
        return _load(cats_config(state_dict, layers), state_dict, lambda key: cats_key(key, len(layers)))
    if "hpn_learner.x_normal" in state_dict:
        return _load(catspp_config(state_dict), state_dict, catspp_key)
    raise ValueError("not an official CATs or CATs++ state dict: it has neither proj.0.weight nor hpn_learner.x_normal")


def aggregator_key(official: str, levels: int) -> str | None:
    """Our name of a parameter of the official CATs aggregator; None for one that its forward pass never reads."""
    if official.startswith("norm."):
        return None
    if found := re.fullmatch(r"(blocks\.\d+)\.(\w+)\.(.+)", official):
        block, part, rest = found.groups()
        if levels == 1 and part in NOT_WITH_ONE_LEVEL:
            return None
        return f"{block}.{BLOCK_PARTS.get(part, part)}.{rest}"
    return official.replace("pos_embed_", "position_")


def cats_key(official: str, levels: int) -> str | None:
    """Our name of a parameter of the official CATs; None for one that is never read."""
    if NEVER_USED.fullmatch(official):
        return None
    if official.startswith("decoder."):
        own = aggregator_key(official.removeprefix("decoder."), levels)
        return own and f"aggregator.{own}"
    official = re.sub(r"^feature_extraction\.backbone\.", "backbone.body.", official)
    return re.sub(r"^([xy])_normal$", r"\1_positions", re.sub(r"^proj\.", "appearance.", official))


def pyramid_key(official: str) -> str:
    """Our name of a parameter of the official CATs++ aggregator."""
    for pattern, name in PYRAMID_RENAMED:
        official = re.sub(pattern, name, official)
    return official


def catspp_key(official: str) -> str | None:
    """Our name of a parameter of the official CATs++; None for one that is never read."""
    if NEVER_USED.fullmatch(official):
        return None
    if official.startswith("backbone."):
        return "backbone.body." + official.removeprefix("backbone.")
    own = official.removeprefix("hpn_learner.")
    return f"{own[0]}_positions" if own in ("x_normal", "y_normal") else f"aggregator.{pyramid_key(own)}"


def cats_config(official: Mapping[str, Tensor], layers: Sequence[int]) -> dict[str, Any]:
    """The config of the CATs that an official state dict belongs to.

    Raises:
        ValueError: it was trained with other layers, or with an unknown ResNet.
    """
    backbone = dict(type=ResNetLayers.__name__, layers=list(layers))
    backbone["depth"] = _resnet_depth(official, "feature_extraction.backbone.")
    with torch.device("meta"):
        channels = build(backbone, path="backbone").num_channels
    expected = [official[f"proj.{i}.weight"].shape[1] for i in range(count(r"proj\.(\d+)\.", official))]
    if expected != channels:
        raise ValueError(
            f"layers {list(layers)} have {channels} channels, but the checkpoint was trained with layers of {expected}"
        )
    grid = len(official["x_normal"])
    config: dict[str, Any] = dict(type=CATs.__name__, backbone=backbone, side=STRIDE * grid, grid=grid, heads=HEADS)
    config["appearance_dim"] = len(official["proj.0.weight"])
    if depth := count(r"decoder\.blocks\.(\d+)\.", official):
        hidden_dim, dim = official["decoder.blocks.0.mlp.fc1.weight"].shape
        config |= dict(depth=depth, mlp_ratio=hidden_dim // dim)
    return config


def catspp_config(official: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the CATs++ that an official state dict belongs to.

    Raises:
        ValueError: it was trained with an unknown ResNet.
    """
    depth = _resnet_depth(official, "backbone.")
    backbone = dict(type=ResNetLayers.__name__, depth=depth, layers=list(range(4, 1 + sum(DEPTHS[depth]))))
    return dict(type=CATsPlusPlus.__name__, backbone=backbone, side=STRIDE * len(official["hpn_learner.x_normal"]))


def _resnet_depth(official: Mapping[str, Tensor], prefix: str) -> int:
    return resnet_depth(count(re.escape(prefix) + r"layer3\.(\d+)\.", official))


def _load(
    config: dict[str, Any], official: Mapping[str, Tensor], own_key: Callable[[str], str | None]
) -> tuple[Matcher, ConversionReport]:
    """The model of a config with copies of the official tensors."""
    with torch.device("meta"):
        model = build(config, path="model")
    report, weights = ConversionReport(config=config), {}
    kept = [len(getattr(model.backbone.body, f"layer{i}")) for i in range(1, 5)]
    for key, value in official.items():
        name = own_key(key)
        if name is None or _is_cut(name, kept):
            report.unused.append(key)
        else:
            weights[name] = value.detach().float().clone()
            report.loaded.append(key)
    load_completely(model, weights, assign=True)
    return model, report


def _is_cut(name: str, kept: Sequence[int]) -> bool:
    """Whether a parameter is one of a block that the backbone did not keep."""
    found = re.match(r"backbone\.body\.layer(\d)\.(\d+)\.", name)
    return found is not None and int(found[2]) >= kept[int(found[1]) - 1]


def _with_benchmark_classes(state_dict: Mapping[str, Tensor], **options: Any) -> tuple[Matcher, ConversionReport]:
    """As `from_official`, with class ids of any benchmark: a matcher does not use them, its evaluation checks them."""
    model, report = from_official(state_dict, **options)
    numbers = range(1, PAIR_CATEGORIES + 1)
    model.label_map = LabelMap(tuple(f"class_{i}" for i in numbers), tuple(numbers))
    return model, report


def _config(model: Mapping[str, Any]) -> dict[str, Any]:
    train, val = (dict(type="SPair71k", root="data/SPair-71k", split=split) for split in ("trn", "test"))
    return dict(
        data=dict(train=train, val=dict(val, direction="target_to_source"), batch_size=32),
        train=dict(epochs=100, clip_norm=None),
        evaluator=dict(type="PCKEvaluator"),
    )


LAYOUTS = tuple(
    Layout(
        name=name,
        types=(model.__name__,),
        landmarks=landmarks,
        convert=_with_benchmark_classes,
        options=options,
        config=_config,
        places=PAIR_PLACES,
    )
    for name, model, landmarks, options in (
        ("CATs", CATs, ("proj.0.weight", "x_normal"), ("layers",)),
        ("CATs++", CATsPlusPlus, ("hpn_learner.x_normal",), ()),
    )
)
