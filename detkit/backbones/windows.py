"""Square windows of a map: the attention within them, and the same in portions where no gradients are wanted.

Shape letters: b images, h/w patch rows and columns, c channels, m heads, k patches of a window, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.backbones.layers import MASKED

# Numbers that one portion holds at its widest: as many as a core's cache.
PORTION = 2**19


def split_windows(x_bhwc: Tensor, size: int) -> Tensor:
    """`[b, h, w, c]` into `[b * windows, size * size, c]`; h and w are multiples of `size`."""
    b, h, w, c = x_bhwc.shape
    x = x_bhwc.view(b, h // size, size, w // size, size, c)
    return x.transpose(2, 3).reshape(-1, size * size, c)


def join_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Inverse of `split_windows`: `[b, h, w, c]`."""
    x = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def window_regions(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Numbers `[windows, k]` of the parts of the image that shifting brings into a window; see `region_mask`.

    Args:
        height, width: of the padded map in patches, multiples of `size`.
        size: side of a window in patches.
        shift: by how many patches the windows are shifted.
        device: of the result.
    """

    def region(length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= length - size).int() + (position >= length - shift).int()

    regions = region(height)[:, None] * 3 + region(width)
    return split_windows(regions[None, :, :, None], size)[..., 0]


def region_mask(regions: Tensor) -> Tensor:
    """Attention bias `[windows, k, k]`: `MASKED` between patches that are apart in the image, otherwise 0."""
    return (regions[:, :, None] != regions[:, None, :]) * MASKED


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of `[b * windows, m, k, d]` with a bias `[1 or windows, m, k, k]`.

    The fused kernel has no backward pass for the bias on a CPU, where its general form is slower than this one.
    """
    bias = bias.expand(q.shape[0] // bias.shape[0], *bias.shape) if bias.shape[0] > 1 else bias[None]
    if q.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(0, 1))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    scores = scores.view(bias.shape[0] if bias.shape[1] > 1 else -1, *bias.shape[1:]) + bias
    return scores.view(q.shape[0], *bias.shape[2:]).softmax(dim=-1) @ v


def in_portions(x: Tensor) -> bool:
    """Whether patches are best computed in portions: on a CPU, without gradients, and not while exporting.

    Large intermediate results cost more than their arithmetic on a CPU, in cache misses and in new memory pages.
    """
    compiling = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not compiling


def portions(count: int, numbers: int) -> Iterator[slice]:
    """Equal slices of `count` rows of so many `numbers` each, about `PORTION` numbers in a slice."""
    step = max(1, math.ceil(count / max(1, round(count * numbers / PORTION))))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


@dataclass
class WindowOrder:
    """The patches of a padded map in the order of its windows, first those that lie together in the image.

    Attributes:
        rows: [windows, k], numbers of the patches of each window, counted row by row over the padded map.
        back: [h * w], where each patch of the map without padding stands in `rows`.
        regions: see `window_regions`, of the windows from number `whole` on.
        whole: how many windows come first that shifting has not put together from apart.
    """

    rows: Tensor
    back: Tensor
    regions: Tensor
    whole: int

    @classmethod
    def of(cls, height: int, width: int, size: int, shift: int) -> WindowOrder:
        """For a map of `height` x `width` patches; `size` and `shift` of the windows in patches."""
        padded = height + -height % size, width + -width % size
        places = torch.arange(math.prod(padded)).view(padded)
        rows = split_windows(places.roll((-shift, -shift), (0, 1))[None, :, :, None], size)[..., 0]
        regions = window_regions(*padded, size, shift, places.device)
        mixed = (regions != regions[:, :1]).any(1) if shift else torch.zeros(len(rows), dtype=torch.bool)
        rows = torch.cat([rows[~mixed], rows[mixed]])
        back = torch.empty_like(places).flatten().scatter_(0, rows.flatten(), places.flatten())
        return cls(rows, back.view(padded)[:height, :width].flatten(), regions[mixed], int((~mixed).sum()))

    def parts(self, numbers: int) -> Iterator[tuple[slice, Tensor | None]]:
        """Portions of the windows and their regions, None for whole windows; `numbers` that a window takes."""
        for part in portions(self.whole, numbers):
            yield part, None
        for part in portions(len(self.regions), numbers):
            yield slice(part.start + self.whole, part.stop + self.whole), self.regions[part]


def attend_in_portions(attend: Callable[..., Tensor], x_bhwc: Tensor, size: int, shift: int, numbers: int) -> Tensor:
    """Attention within the windows of a map, some windows at a time.

    Args:
        attend: gives `[windows, k, c]` of that and of `regions=` `[windows, k]`, None for whole windows.
        x_bhwc: the map; it is padded with zeros to whole windows.
        size, shift: of the windows in patches.
        numbers: that `attend` holds for a patch at its widest.

    Returns:
        `[b, h, w, c]`.
    """
    b, h, w, c = x_bhwc.shape
    order = WindowOrder.of(h, w, size, shift)
    x = F.pad(x_bhwc, (0, 0, 0, -w % size, 0, -h % size)).flatten(1, 2)
    joined = x_bhwc.new_empty(b, h * w, c)
    for rows, out in zip(x, joined, strict=True):
        found = torch.empty_like(rows).view(-1, size * size, c)
        for part, regions in order.parts(size * size * numbers):
            windows = rows[order.rows[part].flatten()].view(-1, size * size, c)
            found[part] = attend(windows, regions=regions)
        torch.index_select(found.view(-1, c), 0, order.back, out=out)
    return joined.view(b, h, w, c)
