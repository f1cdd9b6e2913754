"""Parameter groups, the optimizer and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from detkit.config import OPTIMIZERS, TYPES, check_options, section_options
from detkit.modeling.base import Model
from detkit.modeling.weight_decay import BACKBONE
from detkit.registry import ConfigError, check_value

GROUPS = ("head", "head_no_decay", "backbone_decay", "backbone_no_decay")


def parameter_groups(
    model: Model, lr: float, weight_decay: float, *, backbone_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters in at most four optimizer groups, see `group_of`; frozen ones are left out."""
    undecayed = model.no_weight_decay()
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name, undecayed)].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "initial_lr": lr * backbone_lr_scale if name.startswith("backbone") else lr,
            "weight_decay": 0.0 if name.endswith("no_decay") else weight_decay,
        }
        for name, parameters in groups.items()
        if parameters
    ]


def group_of(name: str, undecayed: Collection[str]) -> str:
    """The group of a parameter: in the backbone or not, and among the names without weight decay or not."""
    if name.startswith(BACKBONE):
        return "backbone_no_decay" if name in undecayed else "backbone_decay"
    return "head_no_decay" if name in undecayed else "head"


def build_optimizer(
    model: Model,
    *,
    lr: float,
    weight_decay: float,
    backbone_lr_scale: float = 1.0,
    type: str = "AdamW",
    **options: Any,
) -> torch.optim.Optimizer:
    """The optimizer of a config's section over `parameter_groups`, fused where all parameters are on a GPU.

    Args:
        type, options: see `detkit.config.OPTIMIZERS`.

    Raises:
        ConfigError: nothing to train, an unknown optimizer, or an option that it does not have.
    """
    defaults = section_options("optimizer", {"type": type})
    check_options(options, OPTIMIZERS[type], f"optimizer ({type})")
    groups = parameter_groups(model, lr, weight_decay, backbone_lr_scale=backbone_lr_scale)
    if not groups:
        raise ConfigError(f"model: {model.__class__.__name__} has no trainable parameters; evaluate it instead")
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    implementation = {"fused": True} if on_gpu else {"foreach": True}
    own = {name: options.get(name, defaults[name]) for name in OPTIMIZERS[type]}
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    return getattr(torch.optim, type)(groups, lr=lr, **own, **implementation)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to its initial rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class Ema:
    """An exponential moving average of a model's weights, kept in `self.model` (eval mode, no gradients).

    In the first steps the decay is smaller, `(1 + step) / (10 + step)`, so that the average forgets the
    initial weights. Buffers are copied.
    """

    def __init__(self, model: Model, decay: float):
        check_value(decay, TYPES["train"]["ema"], "train.ema")
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Move towards the weights of `model` after optimizer step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1 - decay)
        for average, current in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(current)
