"""Reading and resizing single images, the same way in training, evaluation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: str | Path) -> Tensor:
    """Read an image file as uint8 RGB `[3, h, w]`.

    The pixels are taken as stored: COCO annotations refer to them, so an EXIF rotation is not applied.

    Raises:
        ValueError: the file is missing, truncated or not an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return from_pil(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path}: {error}") from error


def from_pil(image: Image.Image) -> Tensor:
    """A PIL image of any mode as uint8 RGB `[3, h, w]`; transparency is dropped, 16-bit grey is scaled to 8 bit."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((grey / (257.0 if grey.max() > 255 else 1.0)).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def load_image(image: Any) -> Tensor:
    """An image given as path, PIL image, array `[h, w, 3]` or `[h, w]`, or tensor `[3, h, w]`, as RGB `[3, h, w]`.

    Files and PIL images are turned upright by their EXIF orientation, as every viewer shows them.
    Values are 0..255; arrays and tensors keep their dtype and, whatever it is, must lie in 0..255 too.

    Raises:
        ValueError: not an image, or an array or tensor of another shape or value range.
    """
    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened:
                return from_pil(ImageOps.exif_transpose(opened))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read image {image}: {error}") from error
    if isinstance(image, Image.Image):
        return from_pil(ImageOps.exif_transpose(image))
    if isinstance(image, np.ndarray):
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image array must be [h, w, 3] or [h, w], got {image.shape}")
        image = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        raise ValueError(f"not an image: {type(image).__name__}; give a path, PIL image, array or tensor")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image tensor must be [3, h, w], got {tuple(image.shape)}")
    if image.numel() == 0:
        raise ValueError(f"the image has no pixels: its shape is {tuple(image.shape)}")
    if image.dtype != torch.uint8:
        low, high = (float(value) for value in image.float().aminmax())
        if not (low >= 0 and high <= 255):  # also true of NaN
            raise ValueError(
                f"image values must lie in 0..255 and not be normalised (the model does that itself), "
                f"they lie in {low:g}..{high:g}"
            )
    return image


def image_size(image: Tensor) -> tuple[int, int]:
    """The (h, w) of an image `[3, h, w]`."""
    return int(image.shape[1]), int(image.shape[2])


def resized_size(size: Sequence[int], shortest: int, longest: int, multiple: int = 1) -> tuple[int, int]:
    """The (h, w) of an image whose shortest side becomes `shortest`, or less where the longest would pass `longest`.

    The other side keeps the aspect ratio, rounded down (DETR's rule); both are then rounded down to a multiple
    of `multiple` (16 in ViDT).
    """
    height, width = (int(side) for side in size)
    short, long = min(height, width), max(height, width)
    if long / short * shortest > longest:
        shortest = round(longest * short / long)
    height, width = (
        (int(shortest * height / width), shortest) if width < height else (shortest, int(shortest * width / height))
    )
    return max(multiple, height // multiple * multiple), max(multiple, width // multiple * multiple)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[3, h, w]` to `size` (h, w), bilinear with antialiasing; dtype and value range stay."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return (resized if image.is_floating_point() else resized.round_()).to(image.dtype)
