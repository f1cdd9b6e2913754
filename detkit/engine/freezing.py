"""Training a model without changing its backbone: `train.freeze="backbone"`."""

from __future__ import annotations

from typing import Any

from torch import nn

from detkit.registry import ConfigError


def freeze(model: nn.Module, config: dict[str, Any]) -> list[nn.Module]:
    """Take the gradients from the backbone of a run's model, as `train.freeze` asks for.

    What pretrained weights lack goes on learning: [DET] tokens, their positions, and what the backbone names by
    `new_parameters()`.

    Args:
        model: of the run.
        config: of the run, resolved.

    Returns:
        The modules that must stay in eval mode, so that norms, dropout and stochastic depth are those of inference.

    Raises:
        ConfigError: a model without a backbone, or one that starts from random weights.
    """
    if config["train"]["freeze"] is None:
        return []
    backbone: Any = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f"train.freeze: a {type(model).__name__} has no backbone")
    if config["train"]["init_from"] is None and not _is_pretrained(config["model"].get("backbone")):
        raise ConfigError(
            "train.freeze: the backbone starts from random weights, which it would keep: name others as "
            "model.backbone.pretrained or train.init_from"
        )
    new = backbone.new_parameters() if hasattr(backbone, "new_parameters") else set()
    for name, parameter in backbone.named_parameters():
        if name not in new and "det_" not in name:
            parameter.requires_grad_(False)
    return [backbone]


def _is_pretrained(config: Any) -> bool:
    """Whether a backbone's config, or that of a part of it, names weights."""
    if not isinstance(config, dict):
        return False
    return bool(config.get("pretrained")) or any(map(_is_pretrained, config.values()))
