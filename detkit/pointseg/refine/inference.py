"""Refining the rough masks of an image with a trained MaskRefineNet (PointWSSIS, arXiv 2303.15062, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from detkit.pointseg.geometry import extents
from detkit.pointseg.heads import resize
from detkit.pointseg.refine.crops import SIZE, crop_box, network_input, normalize

Box = tuple[int, int, int, int]
BOX_SCALE = 2.0


@torch.inference_mode()
def refine_masks(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    masks: Tensor,
    points: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    size: int = SIZE,
    box_scale: float = BOX_SCALE,
    batch_size: int = 16,
) -> Tensor:
    """Refine the masks of one image.

    Each mask is cropped with its surroundings and resized to `size` x `size` pixels; proportions are not kept. The
    rough mask is kept where the network predicts no foreground, or where the rough mask is empty.

    Args:
        network: a `MaskRefineNet` in eval mode, or anything that maps its input to logits of two channels.
        image: [3, h, w] RGB in 0..255.
        masks: [n, h, w] bool.
        points: [n, 2] x, y in pixels of the image.
        labels: [n] int64.
        num_classes: of the network.
        size: side of the crops in pixels.
        box_scale: sides of the crop, relative to those of the mask.
        batch_size: objects that go through the network together.

    Returns:
        `[n, h, w]` bool.

    Raises:
        ValueError: lengths or sizes that do not fit.
    """
    if masks.shape[1:] != image.shape[1:] or not len(masks) == len(points) == len(labels):
        raise ValueError(
            f"masks {tuple(masks.shape)}, points {tuple(points.shape)} and labels {tuple(labels.shape)} "
            f"do not fit each other and the image {tuple(image.shape)}"
        )
    refined, extent = masks.clone(), extents(masks)
    frame = (masks.shape[1], masks.shape[2])
    # A point on the right or lower border belongs to the last pixel, so that its crop shows it.
    points = points.minimum(points.new_tensor([frame[1] - 1, frame[0] - 1]))
    for chunk in (extent[:, 0] >= 0).nonzero()[:, 0].split(batch_size):
        if len(chunk) == 0:
            break
        places = zip(extent[chunk].tolist(), points[chunk].tolist(), strict=True)
        boxes = [crop_box(tuple(e), tuple(p), box_scale, frame) for e, p in places]
        images, rough = cut(image, masks[chunk], boxes, size)
        pixels = point_pixels(points[chunk], boxes, size)
        x = network_input(normalize(images), rough, pixels, labels[chunk] + 1, num_classes)
        paste(refined, chunk.tolist(), boxes, network(x).float().softmax(1))
    return refined


def cut(image: Tensor, masks: Tensor, boxes: list[Box], size: int) -> tuple[Tensor, Tensor]:
    """Crop the image, `[b, 3, size, size]`, and the masks, `[b, size, size]`, by boxes with inclusive x2, y2."""
    images, rough = [], []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        window = (slice(None), slice(None), slice(y1, y2 + 1), slice(x1, x2 + 1))
        images.append(resize(image[None][window].float(), (size, size)))
        rough.append(F.interpolate(mask[None, None][window].float(), size=(size, size)))
    return torch.cat(images), torch.cat(rough)[:, 0]


def point_pixels(points: Tensor, boxes: list[Box], size: int) -> Tensor:
    """Points of the image in pixels x, y of their crops, `[b, 2]` int64, truncated."""
    box = torch.tensor(boxes, dtype=torch.float64, device=points.device)
    sides = box[:, 2:] - box[:, :2] + 1
    return ((points.double() - box[:, :2]) / sides * size).trunc().long()


def paste(refined: Tensor, numbers: list[int], boxes: list[Box], prob: Tensor) -> None:
    """Replace the masks with these numbers by the foreground of the predictions `[b, 2, size, size]`."""
    for number, (x1, y1, x2, y2), one in zip(numbers, boxes, prob, strict=True):
        background, object_ = resize(one[None], (y2 - y1 + 1, x2 - x1 + 1))[0]
        inside = object_ > background
        if inside.any():
            refined[number] = False
            refined[number, y1 : y2 + 1, x1 : x2 + 1] = inside
