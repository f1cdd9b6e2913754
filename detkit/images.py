"""Reading and resizing single images, the same way in training, evaluation and prediction.

A photo is its upright picture: what its EXIF orientation says is done whenever a file is read. Every image becomes
uint8 RGB, by a rule that looks at the type of its values and never at the values themselves:

| values | range |
| --- | --- |
| uint8, and other whole numbers in arrays and tensors | 0..255 |
| uint16, and files of 16 bit or of mode "I" | 0..65535 |
| TIFF files of 9 to 15 bit | 0 to the highest such number |
| floating point | 0..1 |
| bool | False is black, True white |

What lies outside of its range is refused. 12-bit values in a 16-bit file are dark: multiply them by 16 before.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from detkit.files import refuse_url

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".tif", ".tiff"),
)
PIXEL_LIMIT = "DETKIT_MAX_PIXELS"  # environment variable: the most pixels of a file; by default Pillow's limit
ROUNDING = 0.001  # what floating point values may lie outside of 0..1, for example after resizing
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Size = tuple[int, int]
_reported_dark: set[str] = set()


class ThinImageError(ValueError):
    """An image that has no sensible size for a model, see `check_shape`."""


@dataclass(frozen=True)
class Frame:
    """How the pixels of an image file are stored.

    Attributes:
        size: (h, w) of the upright picture.
        orientation: EXIF, 1 to 8; 1 is stored upright.
    """

    size: Size
    orientation: int = 1

    @property
    def stored_size(self) -> Size:
        """(h, w) of the pixels as stored."""
        return self.size if self.orientation < 5 else (self.size[1], self.size[0])

    def is_stored(self, size: Sequence[int]) -> bool:
        """Whether annotations for an image of (h, w) `size` are in pixels as stored, not in those of the picture."""
        return self.size != self.stored_size == tuple(size)

    def doubt(self) -> str | None:
        """Why the size of annotations cannot tell what pixels they mean, and what to do; None if it can."""
        if self.orientation == 1 or self.size != self.stored_size:
            return None
        return (
            f"EXIF orientation {self.orientation} does not change its size, so that width and height do not tell "
            f"whether annotations mean the upright picture or the pixels as stored; they are taken for the upright "
            f"picture. If they mean the stored pixels, remove the tag: exiftool -Orientation= FILE"
        )


def read_image(path: str | Path) -> Tensor:
    """Read an image file, turned upright by its EXIF orientation, as uint8 RGB `[3, h, w]`; see the module's table.

    Raises:
        ValueError: the file is missing, truncated, not an image or too large; the message names it.
    """
    return read_photo(path)[0]


def read_photo(path: str | Path) -> tuple[Tensor, Frame]:
    """The image of `read_image`, and how it was stored."""
    with opened(path) as image:
        image, frame = _turned(image)
        return from_pil(image, str(path)), frame


def read_frame(path: str | Path) -> Frame:
    """How an image file is stored; its pixels are not decoded.

    Raises:
        ValueError: the file is missing or not an image; the message names it.
    """
    with opened(path) as image:
        if image.format == "PNG" and b"eXIf" not in Path(path).read_bytes() and not _has_xmp(image):
            return Frame((image.height, image.width))  # to look for EXIF behind the pixels, Pillow decodes them
        orientation = _orientation(image)
        if image.format == "TIFF" and orientation > 1:
            image.load()  # turns it
            return Frame((image.height, image.width), orientation)
        stored = Frame((image.height, image.width), orientation)
        return Frame(stored.stored_size, orientation)


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file opened by Pillow; any error inside of the block becomes a ValueError that names the file."""
    refuse_url(path, "image")
    limit, standard = _pixel_limit(), Image.MAX_IMAGE_PIXELS
    try:
        if limit is not None:
            Image.MAX_IMAGE_PIXELS = None
        with Image.open(path) as image:
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"it has {image.width * image.height} pixels, {PIXEL_LIMIT} allows {limit}")
            yield image
    except Image.DecompressionBombError as error:
        hint = f"if it is meant to be so large, set the environment variable {PIXEL_LIMIT} to as many pixels"
        raise ValueError(f"cannot read image {path}: {error} ({hint})") from error
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        raise ValueError(f"cannot read image {path}: {str(error) or type(error).__name__}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = standard


def _pixel_limit() -> int | None:
    text = os.environ.get(PIXEL_LIMIT)
    if not text:
        return None
    if not text.isdecimal():
        raise ValueError(f"{PIXEL_LIMIT} must be a whole number of pixels, got {text!r}")
    return int(text)


def _has_xmp(image: Image.Image) -> bool:
    return any(key in image.info for key in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none, or none that can be read."""
    if image.format == "JPEG" and "exif" not in image.info and "xmp" not in image.info:
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data: viewers show such a photo as stored
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _turned(image: Image.Image) -> tuple[Image.Image, Frame]:
    """The upright picture, and how it was stored."""
    if image.format == "PNG":
        image.load()  # EXIF data may stand behind the pixels
    orientation = _orientation(image)
    image.load()
    if orientation > 1 and image.format != "TIFF":  # Pillow turns TIFF files itself
        image = image.transpose(TURNS[orientation])
    return image, Frame((image.height, image.width), orientation)


def from_pil(image: Image.Image, name: str = "") -> Tensor:
    """A PIL image of any mode as uint8 RGB `[3, h, w]`; see the module's table. Transparency is dropped.

    Args:
        image: as it is: its EXIF orientation is not looked at.
        name: of the file, for warnings.

    Raises:
        ValueError: values outside of the range of their type.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray(_scale_grey(image, name))
    elif image.mode == "F":
        image = Image.fromarray(to_uint8(torch.from_numpy(np.array(image))).numpy())
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _scale_grey(image: Image.Image, name: str) -> np.ndarray:
    grey, bits = np.asarray(image, dtype=np.float32), getattr(image, "tag_v2", {}).get(258, (16,))[0]
    bits = bits if 8 < bits < 16 else 16
    low, high, white = grey.min(initial=0), grey.max(initial=0), 2**bits - 1
    if low < 0 or high > white:
        raise ValueError(f"values of {bits} bit must lie in 0..{white}, they lie in {low:g}..{high:g}")
    if bits == 16:
        _report_dark(name, int(high))
    return (grey / (white / 255)).clip(0, 255).astype(np.uint8)


def _report_dark(name: str, high: int) -> None:
    """Warn of the first 16-bit image that uses few of its values."""
    if 0 < high < 4096 and not _reported_dark:
        _reported_dark.add(name)
        logger.warning(
            "%s: the values of this 16-bit image reach %d of 65535, it is read as nearly black. If they are of %d bit, "
            "multiply them by %d first. Further such images are not reported",
            name or "an image",
            high,
            *((8, 257) if high < 256 else (12, 16)),
        )


def load_image(image: Any) -> Tensor:
    """A path, PIL image, array `[h, w, 3]` or `[h, w]`, or tensor `[3, h, w]` as an image: uint8 RGB `[3, h, w]`.

    Files and PIL images are turned upright by their EXIF orientation, as every viewer shows them. The range of the
    values follows from their type alone: uint8 0..255, float 0..1, uint16 0..65535; see the module's table.

    Raises:
        ValueError: not an image, or an array or tensor of another shape or value range.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return from_pil(_turned(image)[0])
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Tensor):
        raise ValueError(f"not an image: {type(image).__name__}; give a path, PIL image, array or tensor")
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image tensor must be [3, h, w], got {tuple(image.shape)}")
    if image.numel() == 0:
        raise ValueError(f"the image has no pixels: its shape is {tuple(image.shape)}")
    return to_uint8(image)


def _from_array(image: np.ndarray) -> Tensor:
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image array must be [h, w, 3] or [h, w], got {image.shape}")
    if image.dtype.kind not in "buif":
        raise ValueError(f"an image array must hold numbers, got {image.dtype}")
    native = np.array(image, dtype=image.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(native.astype(np.float64) if native.dtype.itemsize > 8 else native).permute(2, 0, 1)


def to_uint8(values: Tensor) -> Tensor:
    """Values of any type as uint8 in 0..255 by the module's table.

    Raises:
        ValueError: values outside of the range of their type, or not finite.
    """
    kind = values.dtype
    if kind == torch.uint8:
        return values
    if kind == torch.bool:
        return values.to(torch.uint8) * 255
    if kind == torch.uint16:
        _report_dark("", int(values.int().max()))
        return (values.float() / 257).to(torch.uint8)
    if kind.is_complex:
        raise ValueError(f"an image must hold real numbers, got {kind}")
    low, high = (float(value) for value in values.double().aminmax())
    white = 1 if kind.is_floating_point else 255
    slack = ROUNDING * (white == 1)
    if not (low >= -slack and high <= white + slack):  # also true of NaN
        name, hint = str(kind).removeprefix("torch."), "; give values of 0..255 as uint8" * (white == 1)
        raise ValueError(
            f"image values of type {name} must lie in 0..{white} and not be normalised (the model does that itself), "
            f"they {'are not all finite' if math.isnan(low) else f'lie in {low:g}..{high:g}'}{hint}"
        )
    return ((values.float() * 255).round().clamp(0, 255) if kind.is_floating_point else values).to(torch.uint8)


def image_size(image: Tensor) -> tuple[int, int]:
    """The (h, w) of an image `[3, h, w]`."""
    return int(image.shape[1]), int(image.shape[2])


def resized_size(size: Sequence[int], shortest: int, longest: int, multiple: int = 1) -> tuple[int, int]:
    """The (h, w) of an image whose shortest side becomes `shortest`, or less where the longest would pass `longest`.

    The other side keeps the aspect ratio, rounded down (DETR's rule); both are then rounded down to a multiple
    of `multiple` (16 in ViDT), and to one multiple at least. So no side is further than `multiple` pixels from what the
    aspect ratio asks for, beside the rounding of the shortest, and none passes `longest`.
    """
    height, width = (int(side) for side in size)
    short, long = min(height, width), max(height, width)
    if long / short * shortest > longest:
        shortest = round(longest * short / long)
        other = min(int(shortest * long / short), longest) if shortest else longest
    else:
        other = int(shortest * long / short)
    height, width = (other, shortest) if width < height else (shortest, other)
    return max(multiple, height // multiple * multiple), max(multiple, width // multiple * multiple)


def check_multiple(shortest: int, longest: int, multiple: int, path: str = "") -> None:
    """Refuse arguments of `resized_size` that would make images larger than they ask for.

    Args:
        path: of the three in a config, with a dot at its end, for the message.

    Raises:
        ValueError: `multiple` is above `shortest` or `longest`.
    """
    for name, side in (("shortest", shortest), ("longest", longest)):
        if multiple > side:
            raise ValueError(f"{path}multiple must not be above {path}{name}, got {multiple} and {side}")


def check_shape(size: Sequence[int], longest: int, multiple: int) -> None:
    """Refuse an image (h, w) that `resized_size` would widen beyond recognition, more than four times.

    A rule whose `multiple` is as large as `longest` makes squares of all images and refuses none.

    Raises:
        ThinImageError: its shorter side would be less than a quarter of `multiple`.
    """
    height, width = size
    shortest = longest * min(height, width) / max(height, width)
    if multiple < longest and shortest < multiple / 4:
        raise ThinImageError(
            f"the image of {width} x {height} pixels is too thin: with {longest} pixels for its longer side, "
            f"{shortest:.2g} are left for the shorter one; cut it into pieces"
        )


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[3, h, w]` to `size` (h, w), bilinear with antialiasing; dtype and value range stay."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return (resized if image.is_floating_point() else resized.round_()).to(image.dtype)
