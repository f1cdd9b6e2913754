"""Instance masks of ViDT+ as vectors, one for each det token (UQR, arXiv 2204.07962).

As in DCT-Mask (arXiv 2011.09876) the part of a mask in its box is resized to 128 x 128, and the vector holds the lowest
frequencies of its discrete cosine transform.
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
    """Check that all objects have masks of the size (h, w) of their image.

    Raises:
        ValueError: masks are missing or have another size; the message names the image.
    """
    for objects, size in zip(annotations, sizes, strict=True):
        image = f"image {objects.image_id} ({objects.file_name})"
        found = objects.mask_size
        if found is None and len(objects):
            raise ValueError(
                f"{image}: {len(objects)} objects without masks, but the model learns masks or token labels; "
                "load the data with masks=True, or build the model with mask_vectors=0 and token_labels=False"
            )
        if found is not None and found != tuple(size):
            raise ValueError(f"{image}: masks are {found} (h, w) but the image is {tuple(size)}")


def masks_to_vectors(annotations: Sequence[Annotations], sizes: Sequence[tuple[int, int]], keep: int) -> Tensor:
    """The mask vectors of the objects of a batch.

    Args:
        annotations: with masks where there are objects.
        sizes: (h, w) of each image; the masks are taken as padded to the largest height and width, like the images.
        keep: number of DCT coefficients.

    Returns:
        `[b, t, keep]`, where t is the largest number of objects in an image; zeros for missing objects.
    """
    frame = max(h for h, _ in sizes), max(w for _, w in sizes)
    device = annotations[0].boxes.device
    vectors = torch.zeros(len(annotations), max(map(len, annotations)), keep, device=device)
    for i, objects in enumerate(annotations):
        if (masks := objects.mask_crops) is not None and len(objects):
            crops = crop_masks(masks, objects.boxes, SIDE, frame=frame)
            vectors[i, : len(objects)] = encode_dct(crops, keep)
    return vectors


def vectors_to_masks(vectors: Tensor) -> Tensor:
    """Bitmaps `[..., 128, 128]` bool of mask vectors `[..., keep]`.

    A pixel is True where its value is above the mean of the smallest and the largest value of its mask. The arithmetic
    is float32, inside autocast too.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        images = decode_dct(vectors, SIDE)
        middle = (images.amin((-2, -1), keepdim=True) + images.amax((-2, -1), keepdim=True)) / 2
        return images > middle


def vectors_to_soft_masks(vectors: Tensor) -> Tensor:
    """The values of the pixels before the threshold, scaled to 0..1 for each mask: `[..., 128, 128]` float32."""
    with torch.autocast(vectors.device.type, enabled=False):
        images = decode_dct(vectors, SIDE)
        low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
        return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)
