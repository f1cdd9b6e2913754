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
    """Better masks for the objects of one image.

    Each mask is cut out with its surroundings and brought to `size` x `size` pixels, without keeping its proportions.
    Where the network finds nothing the rough mask stays; so does an empty rough mask, which tells no place to look at.

    Args:
        network: a `MaskRefineNet` in eval mode, or anything that maps its input to logits of two channels.
        image: [3, h, w] RGB in 0..255.
        masks: [n, h, w] bool.
        points: [n, 2] x, y in pixels of the image.
        labels: [n] int64.
        num_classes: of the network.
        box_scale: sides of the crop over those of the mask.
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
    """The image `[b, 3, size, size]` and the masks `[b, size, size]` inside boxes, which include their last pixels."""
    images, rough = [], []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        window = (slice(None), slice(None), slice(y1, y2 + 1), slice(x1, x2 + 1))
        images.append(resize(image[None][window].float(), (size, size)))
        rough.append(F.interpolate(mask[None, None][window].float(), size=(size, size)))
    return torch.cat(images), torch.cat(rough)[:, 0]


def point_pixels(points: Tensor, boxes: list[Box], size: int) -> Tensor:
    """The pixel x, y of each crop that a point of the image falls into, `[b, 2]` int64, towards 0 rounded."""
    box = torch.tensor(boxes, dtype=torch.float64, device=points.device)
    sides = box[:, 2:] - box[:, :2] + 1
    return ((points.double() - box[:, :2]) / sides * size).trunc().long()


def paste(refined: Tensor, numbers: list[int], boxes: list[Box], prob: Tensor) -> None:
    """Put what the network found `[b, 2, size, size]` in the place of the masks of these numbers."""
    for number, (x1, y1, x2, y2), one in zip(numbers, boxes, prob, strict=True):
        background, object_ = resize(one[None], (y2 - y1 + 1, x2 - x1 + 1))[0]
        inside = object_ > background
        if inside.any():
            refined[number] = False
            refined[number, y1 : y2 + 1, x1 : x2 + 1] = inside
