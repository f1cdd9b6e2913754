from dataclasses import replace

import pytest
import torch
from white_boxes import rng

from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import CopyPaste
from detkit.structures import Annotations

SCENES = SyntheticScenes(12, size=(96, 128), min_objects=2)
ALWAYS = CopyPaste((2, 4), probability=1)


def with_points(sample):
    """The sample with a point for each object: a pixel of its mask."""
    image, known = sample
    points = torch.stack([mask.nonzero()[0].flip(0) for mask in known.masks]).float()
    return image, replace(known, points=points)


def values(value, *boxes, size=(60, 80)):
    """A black image with boxes of one value, without masks."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = value
    return image, Annotations(torch.tensor(boxes).float().view(-1, 4), torch.full((len(boxes),), value))


@pytest.mark.parametrize("seed", range(8))
def test_the_pixels_under_the_mask_of_a_pasted_object_are_those_of_the_object(seed):
    image, known = SCENES[seed]
    white = torch.full_like(SCENES[seed + 1][0], 255), SCENES[seed + 1][1]
    pasted, found = ALWAYS(torch.zeros_like(image), known, rng(seed), [white])
    new = slice(len(known), len(found))
    assert len(found) > len(known) and torch.equal(found.labels[: len(known)], known.labels)
    assert torch.equal(found.masks[new].any(0), pasted[0] == 255)
    for box, mask in zip(found.boxes[new], found.mask_crops[new].boxes(), strict=True):
        assert box.tolist() == pytest.approx(mask.tolist(), abs=1.5)


@pytest.mark.parametrize("seed", range(8))
def test_what_lies_below_loses_what_is_hidden_and_keeps_its_share_and_its_point(seed):
    image, known = with_points(SCENES[seed])
    pasted, found = ALWAYS(image, known, rng(seed), [with_points(SCENES[seed + 1])])
    number = len(known)
    covered = found.masks[number:].any(0)
    for index in range(number):
        assert torch.equal(found.masks[index], known.masks[index] & ~covered)
        assert found.masks[index].sum() >= 0.5 * known.masks[index].sum()
        x, y = known.points[index].int().tolist()
        assert found.masks[index, y, x]
        if (known.masks[index] & covered).any():
            assert torch.equal(found.boxes[index], found.mask_crops.boxes()[index])
    assert torch.equal(found.points[:number], known.points)
    for point, mask in zip(found.points[number:], found.masks[number:], strict=True):
        x, y = point.round().int().tolist()
        assert mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any()
    assert torch.equal(pasted[:, ~covered], image[:, ~covered])


def test_without_masks_whole_boxes_are_pasted():
    image, known = values(100, (2, 3, 30, 20))
    pasted, found = CopyPaste((1, 1), scale=(1, 1), probability=1)(
        image, known, rng(3), [values(200, (10, 10, 30, 25))]
    )
    assert found.labels.tolist() == [100, 200] and found.masks is None
    assert torch.equal(found.boxes[0], known.boxes[0])
    x1, y1, x2, y2 = found.boxes[1].int().tolist()
    assert (x2 - x1, y2 - y1) == (20, 15) and (pasted[:, y1:y2, x1:x2] == 200).all()
    assert (pasted == 200).sum() == 3 * 20 * 15


def test_an_object_that_finds_no_place_is_left_out():
    image, known = values(100, (0, 0, 80, 60))
    keep = CopyPaste((1, 1), scale=(1, 1), min_visible=1.0, probability=1)
    assert len(keep(image, known, rng(), [values(200, (10, 10, 30, 25))])[1]) == 1
    larger = CopyPaste((1, 1), scale=(9, 9), probability=1)
    same, found = larger(image, known, rng(), [values(200, (10, 10, 30, 25))])
    assert len(found) == 1 and torch.equal(same, image)
