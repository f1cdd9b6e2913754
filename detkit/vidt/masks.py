"""Instance masks of ViDT+: each det token predicts one vector (UQR, arXiv 2204.07962).

A mask, cut out of its box and stretched to 128 x 128, is its lowest DCT frequencies, as in DCT-Mask (arXiv 2011.09876).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detkit.ops.dct import decode_dct, encode_dct
from detkit.ops.masks import crop_masks
from detkit.structures import Annotations

SIDE = 128


def check_masks(annotations: Sequence[Annotations], sizes: Sequence[tuple[int, int]]) -> None:
    """See that objects have masks of the size (h, w) of their image.

    Raises:
        ValueError: they have none, or of another size; the message names the image.
    """
    for objects, size in zip(annotations, sizes, strict=True):
        image = f"image {objects.image_id} ({objects.file_name})"
        if objects.masks is None and len(objects):
            raise ValueError(
                f"{image}: {len(objects)} objects without masks, but the model learns masks or token labels; "
                "load the data with masks=True, or build the model with mask_vectors=0 and token_labels=False"
            )
        if objects.masks is not None and tuple(objects.masks.shape[1:]) != tuple(size):
            shape = tuple(objects.masks.shape[1:])
            raise ValueError(f"{image}: masks are {shape} (h, w) but the image is {tuple(size)}")


def masks_to_vectors(annotations: Sequence[Annotations], sizes: Sequence[tuple[int, int]], keep: int) -> Tensor:
    """The mask vectors `[b, t, keep]` of the objects of a batch, padded with zeros to the most of an image.

    Args:
        annotations: with masks where there are objects.
        sizes: (h, w) of each image; the masks count as padded to the largest, like the images.
        keep: number of DCT coefficients.
    """
    frame = max(h for h, _ in sizes), max(w for _, w in sizes)
    device = annotations[0].boxes.device
    vectors = torch.zeros(len(annotations), max(map(len, annotations)), keep, device=device)
    for i, objects in enumerate(annotations):
        if objects.masks is not None and len(objects):
            crops = crop_masks(objects.masks, objects.boxes, SIDE, frame=frame)
            vectors[i, : len(objects)] = encode_dct(crops, keep)
    return vectors


def vectors_to_masks(vectors: Tensor) -> Tensor:
    """Bitmaps `[..., 128, 128]` bool of mask vectors `[..., keep]`: above the middle of their own least and most.

    The arithmetic is float32 inside autocast too.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        images = decode_dct(vectors, SIDE)
        middle = (images.amin((-2, -1), keepdim=True) + images.amax((-2, -1), keepdim=True)) / 2
        return images > middle


def vectors_to_soft_masks(vectors: Tensor) -> Tensor:
    """The same before the decision, from 0 (their least) to 1 (their most): `[..., 128, 128]` float32."""
    with torch.autocast(vectors.device.type, enabled=False):
        images = decode_dct(vectors, SIDE)
        low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
        return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)
