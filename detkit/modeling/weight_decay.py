"""Which parameters weight decay should leave alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
BACKBONE = "backbone."


def undecayed_parameters(model: nn.Module) -> set[str]:
    """The full names of the parameters of all norms, and of those that parts of the model list as `no_weight_decay()`.

    A part lists names as its own `named_parameters` gives them.
    """
    names = set()
    for prefix, module in model.named_modules():
        own = {name for name, _ in module.named_parameters(recurse=False)} if isinstance(module, NORMS) else set()
        if module is not model and hasattr(module, "no_weight_decay"):
            own |= set(module.no_weight_decay())
        names |= {f"{prefix}.{name}" if prefix else name for name in own}
    return names


def undecayed_in_backbone(model: nn.Module) -> set[str]:
    """The rule of the official ViDT code: see `is_undecayed`, with what `model.backbone.no_weight_decay()` lists."""
    backbone: Any = getattr(model, "backbone", None)
    listed = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
    return {name for name, parameter in model.named_parameters() if is_undecayed(name, parameter.shape, listed)}


def is_undecayed(name: str, shape: Sequence[int], listed: Collection[str] = ()) -> bool:
    """Whether a parameter is a vector or a bias of the backbone, or one that the backbone lists.

    Args:
        name: the name in the model.
        listed: names without the prefix `backbone.`.
    """
    inside = name.startswith(BACKBONE)
    return inside and (len(shape) == 1 or name.endswith(".bias") or name.removeprefix(BACKBONE) in listed)
