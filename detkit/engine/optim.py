"""Parameter groups, the optimizer and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from detkit.registry import ConfigError

BACKBONE = "backbone."


def group_of(name: str, shape: Sequence[int], no_decay: Collection[str] = ()) -> str:
    """The group of a parameter by the rule of the official ViDT code.

    Args:
        name: the name in the model.
        no_decay: names inside the backbone, without the prefix `backbone.`, that are not decayed.

    Returns:
        "head" (everything outside the backbone, decayed whatever its shape), "backbone_decay" or
        "backbone_no_decay" (vectors, biases and the parameters of `no_decay`).
    """
    if not name.startswith(BACKBONE):
        return "head"
    undecayed = len(shape) == 1 or name.endswith(".bias") or name.removeprefix(BACKBONE) in no_decay
    return "backbone_no_decay" if undecayed else "backbone_decay"


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, *, no_decay: Iterable[str] = (), backbone_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters in at most three optimizer groups (see `group_of`); frozen ones are left out.

    Besides `no_decay`, the names that `model.backbone.no_weight_decay()` lists are not decayed.
    """
    backbone = getattr(model, "backbone", None)
    listed = backbone.no_weight_decay() if backbone is not None and hasattr(backbone, "no_weight_decay") else ()
    undecayed = {*no_decay, *listed}
    groups: dict[str, list[nn.Parameter]] = {"head": [], "backbone_decay": [], "backbone_no_decay": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name, parameter.shape, undecayed)].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "initial_lr": lr if name == "head" else lr * backbone_lr_scale,
            "weight_decay": 0.0 if name == "backbone_no_decay" else weight_decay,
        }
        for name, parameters in groups.items()
        if parameters
    ]


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float = 1.0,
    betas: Sequence[float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`, fused where all parameters are on a GPU.

    Raises:
        ConfigError: nothing to train.
    """
    groups = parameter_groups(model, lr, weight_decay, backbone_lr_scale=backbone_lr_scale)
    if not groups:
        raise ConfigError("model: it has no trainable parameters")
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    implementation = {"fused": True} if on_gpu else {"foreach": True}
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), **implementation)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to its initial rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class Ema:
    """An exponential moving average of a model's weights, kept in `self.model` (eval mode, no gradients).

    In the first steps the decay is smaller, `(1 + step) / (10 + step)`, so that the average forgets the
    initial weights. Buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not (isinstance(decay, float) and 0 < decay < 1):
            raise ConfigError(f"train.ema: the decay must lie between 0 and 1, got {decay!r}")
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the weights of `model` after optimizer step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
