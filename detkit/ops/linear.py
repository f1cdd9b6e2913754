"""Linear layers and convolutions of 1 x 1 that are fast on a CPU too.

PyTorch gives the float32 matrix products of such layers on x86 to MKL, which uses the widest vector units of its own
vendor's processors only. oneDNN, which comes with PyTorch as well, uses them on all, and is twice as fast on some.

With `DETKIT_ONEDNN_LINEAR=0` in the environment PyTorch chooses, as it does on processors that are not x86.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ONEDNN = (
    os.environ.get("DETKIT_ONEDNN_LINEAR") != "0"
    and platform.machine() in ("x86_64", "AMD64")
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
# Multiplications below which the overhead of oneDNN is larger than what it saves.
SMALL = 2**20


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` as `torch.nn.functional.linear`, by oneDNN where that is faster.

    Args:
        x: [..., in_channels].
        weight: [out_channels, in_channels].
        bias: [out_channels].
    """
    if not _onednn_helps(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled():
        return _OneDnnLinear.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """GELU of `linear`; one kernel where no gradients are wanted, which reads and writes the result once."""
    if torch.is_grad_enabled() or not _onednn_helps(x, weight):
        return F.gelu(linear(x, weight, bias))
    return _product(x, weight, bias, "gelu")


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`."""
        return linear(x, self.weight, self.bias)


def conv2d(x_bchw: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """`torch.nn.functional.conv2d` with the stride, padding and dilation of `conv`.

    With one thread PyTorch leaves convolutions of 1 x 1 to MKL too, and with more to oneDNN.
    """
    if weight.shape[2:] == (1, 1) and torch.get_num_threads() == 1 and _onednn_helps(x_bchw, weight):
        return torch.mkldnn_convolution(x_bchw, weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups)
    return F.conv2d(x_bchw, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that without gradients keeps the layout of its input and is done by oneDNN.

    The maps of a transformer have their channels last; PyTorch's own convolution of 1 x 1 copies them.
    """

    def forward(self, x_bchw: Tensor) -> Tensor:
        """`[b, in_channels, h, w]` to `[b, out_channels, h', w']`."""
        if torch.is_grad_enabled() or not _onednn_helps(x_bchw, self.weight):
            return super().forward(x_bchw)
        geometry = self.padding, self.stride, self.dilation, self.groups
        return torch.mkldnn_convolution(x_bchw, self.weight, self.bias, *geometry)


def _onednn_helps(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # what is exported uses portable operators only
        return False
    on_cpu = ONEDNN and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return on_cpu and x.numel() * len(weight) >= SMALL and not torch.is_autocast_enabled("cpu")


def linear_flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: object, **__: object) -> int:
    """FLOPs of a product by oneDNN, for `torch.utils.flop_counter`."""
    return 2 * math.prod(x_shape) * weight_shape[0]


def conv_flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: object, out_shape: Sequence[int]) -> int:
    """FLOPs of a convolution by oneDNN, for `torch.utils.flop_counter`."""
    return 2 * math.prod(weight_shape) * out_shape[0] * math.prod(out_shape[2:])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    # "none" as the last argument: GELU by the error function, not by tanh.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


def _weight_gradient(x_rows: Tensor, grad_rows: Tensor) -> Tensor:
    """`grad.T @ x`, `[out_channels, in_channels]`. PyTorch copies the transposed first factor: the narrower one."""
    if grad_rows.shape[1] > x_rows.shape[1]:
        return _product(x_rows.t(), grad_rows.t()).t()
    return _product(grad_rows.t(), x_rows.t())


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_rows = grad.flatten(0, -2)
        wanted = ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if wanted[0] else None,
            _weight_gradient(x.flatten(0, -2), grad_rows) if wanted[1] else None,
            grad_rows.sum(0) if wanted[2] else None,
        )
