"""Square images as the lowest frequencies of their discrete cosine transform (DCT-II, orthonormal)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
def zigzag(side: int, keep: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns of the first `keep` entries of a `side` x `side` matrix in JPEG's zig-zag order.

    Raises:
        ValueError: the matrix has fewer entries.
    """
    if not 0 < keep <= side * side:
        raise ValueError(f"cannot keep {keep} coefficients of a {side} x {side} transform")

    def position(entry: tuple[int, int]) -> tuple[int, int]:
        """Antidiagonal and place on it; even ones run upwards, odd ones downwards."""
        row, column = entry
        return row + column, (row if (row + column) % 2 else column)

    entries = sorted(((row, column) for row in range(side) for column in range(side)), key=position)[:keep]
    return tuple(row for row, _ in entries), tuple(column for _, column in entries)


def dct_basis(frequencies: int, side: int, device: torch.device | None = None) -> Tensor:
    """The first rows `[frequencies, side]` of the DCT matrix; full, it is orthonormal."""
    frequency = torch.arange(frequencies, device=device, dtype=torch.float32)[:, None]
    position = torch.arange(side, device=device, dtype=torch.float32) + 0.5
    basis = (frequency * position * (math.pi / side)).cos() * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis


def encode_dct(images: Tensor, keep: int) -> Tensor:
    """The first `keep` DCT coefficients `[..., keep]`, in zig-zag order, of images `[..., side, side]`."""
    side = images.shape[-1]
    rows, columns = zigzag(side, keep)
    basis = dct_basis(max(*rows, *columns) + 1, side, images.device)
    return (basis @ images.float() @ basis.T)[..., rows, columns]


def decode_dct(coefficients: Tensor, side: int) -> Tensor:
    """Images `[..., side, side]` of zig-zag DCT coefficients `[..., keep]`; all further ones count as zero."""
    rows, columns = zigzag(side, coefficients.shape[-1])
    frequencies = max(*rows, *columns) + 1
    spectrum = coefficients.new_zeros(*coefficients.shape[:-1], frequencies, frequencies, dtype=torch.float32)
    spectrum[..., rows, columns] = coefficients.float()
    basis = dct_basis(frequencies, side, coefficients.device)
    return basis.T @ spectrum @ basis
