"""Parameter groups, the optimizer and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from detkit.config import OPTIMIZERS, check_options, section_options
from detkit.registry import ConfigError

BACKBONE = "backbone."
GROUPS = ("head", "head_no_decay", "backbone_decay", "backbone_no_decay")


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
    model: nn.Module, lr: float, weight_decay: float, *, backbone_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters in at most four optimizer groups; frozen ones are left out.

    Where the model has a method `no_weight_decay`, exactly the parameters that it names (in full, as
    `named_parameters` does) are not decayed. Elsewhere the rule is that of `group_of`, and the names that
    `model.backbone.no_weight_decay()` lists are not decayed either.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if hasattr(model, "no_weight_decay"):
        listed = model.no_weight_decay()
        group_names = [listed_group_of(name, listed) for name, _ in named]
    else:
        undecayed: Collection[str] = getattr(getattr(model, "backbone", None), "no_weight_decay", tuple)()
        group_names = [group_of(name, parameter.shape, undecayed) for name, parameter in named]
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in GROUPS}
    for group, (_, parameter) in zip(group_names, named, strict=True):
        groups[group].append(parameter)
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


def listed_group_of(name: str, undecayed: Collection[str]) -> str:
    """The group of a parameter of a model that lists all that is not decayed."""
    part = "backbone" if name.startswith(BACKBONE) else "head"
    if name in undecayed:
        return f"{part}_no_decay"
    return "head" if part == "head" else "backbone_decay"


def build_optimizer(
    model: nn.Module,
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
        raise ConfigError("model: it has no trainable parameters")
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
