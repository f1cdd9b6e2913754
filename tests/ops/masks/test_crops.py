import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from detkit.ops.masks import MaskCrops
from detkit.ops.rle import encode_masks

SIZE = (30, 44)


def blobs(number=6):
    """Masks of random pixels in random boxes; the one before the last is empty, the last is everything."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(number, *SIZE, dtype=torch.bool)
    for mask in masks[:-2]:
        (top, bottom), (left, right) = (torch.randint(side, (2,), generator=generator).sort().values for side in SIZE)
        part = mask[top : bottom + 1, left : right + 1]
        part[:] = torch.rand(part.shape, generator=generator) > 0.7
    masks[-1] = True
    return masks


def test_full_masks_come_back():
    masks = blobs()
    crops = MaskCrops.of_masks(masks, SIZE)
    assert torch.equal(crops.dense(), masks) and len(crops) == len(masks)
    again = pickle.loads(pickle.dumps(crops))
    assert torch.equal(again.dense(), masks) and again.encode() == encode_masks(masks)


def test_they_hold_the_pixels_around_the_objects_only():
    masks = torch.zeros(500, 256, 256, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[i // 2 : i // 2 + 5, 100:107] = True
    crops = MaskCrops.of_masks(masks, (256, 256))
    assert crops.pixels.numel() == masks.sum() and crops.areas[0] == 35
    assert crops.boxes()[9].tolist() == [100, 4, 107, 9]


@pytest.mark.parametrize("keep", [slice(1, 4), [4, 0], torch.tensor([5, 2]), torch.arange(6) % 2 == 0, slice(0, 0)])
def test_selecting(keep):
    masks = blobs()
    assert torch.equal(MaskCrops.of_masks(masks, SIZE)[keep].dense(), masks[keep])


def test_no_masks():
    crops = MaskCrops.of_masks([], SIZE)
    assert len(crops) == 0 and crops.dense().shape == (0, *SIZE) and crops.encode() == []
    assert list(crops.groups(4)) == [] and crops.boxes().shape == (0, 4)
    assert crops.resampled(np.arange(5), np.arange(6)).dense().shape == (0, 5, 6)


def test_groups_are_padded_to_their_largest_rectangle():
    masks = blobs()
    crops = MaskCrops.of_masks(masks, SIZE)
    groups = list(crops.groups(4))
    assert [group for group, _, _ in groups] == [slice(0, 4), slice(4, 8)] and groups[1][2].shape == (2, *SIZE)
    for group, places, pixels in groups:
        for mask, (top, left, height, width), part in zip(masks[group], places.tolist(), pixels, strict=True):
            assert torch.equal(part[:height, :width], mask[top : top + height, left : left + width])
            assert part.sum() == mask.sum()


def test_resampled_masks_are_resized_cropped_and_mirrored_ones():
    masks = blobs()
    crops = MaskCrops.of_masks(masks, SIZE)
    mirrored = crops.resampled(np.arange(30), np.arange(44)[::-1])
    assert torch.equal(mirrored.dense(), masks.flip(2))
    assert torch.equal(crops.resampled(np.arange(4, 17), np.arange(9, 30)).dense(), masks[:, 4:17, 9:30])
    rows, columns = np.arange(45) * 30 // 45, np.arange(22) * 2
    enlarged = interpolate(masks[None].byte(), size=(45, 22), mode="nearest")[0].bool()
    assert torch.equal(crops.resampled(rows, columns).dense(), enlarged)


def test_masks_follow_a_device_and_their_places_stay():
    crops = MaskCrops.of_masks(blobs(), SIZE).to("meta")
    assert crops.device.type == crops.dense().device.type == "meta" and crops.places.device.type == "cpu"
