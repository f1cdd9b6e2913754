"""Which parameters weight decay should leave alone."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


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
