import pytest
import torch
import torch.nn.functional as F

from detkit.ops.masks import BoxMasks
from detkit.ops.rle import encode_masks


def box_masks(boxes, size=(50, 70), side=8):
    generator = torch.Generator().manual_seed(0)
    return BoxMasks(torch.rand(len(boxes), side, side, generator=generator) > 0.5, torch.tensor(boxes), size)


BOXES = [
    [10.3, 5.2, 43.1, 20.7],  # inside
    [-20.0, -5.0, 30.0, 80.0],  # beyond three edges
    [69.2, 49.1, 69.9, 49.9],  # one pixel
    [-30.0, 2.0, -3.0, 9.0],  # outside
    [12.0, 12.0, 12.0, 30.0],  # empty
    [3.2, 4.1, 3.4, 9.0],  # between two pixel centres
    [0.0, 0.0, 70.0, 50.0],  # all
]


def test_pasting_is_bilinear_sampling_inside_the_box():
    masks = box_masks(BOXES)
    dense = masks.dense()
    assert dense.shape == (7, 50, 70) and dense.dtype == torch.bool
    rows, columns = torch.arange(50) + 0.5, torch.arange(70) + 0.5
    for i in (0, 1, 6):
        x1, y1, x2, y2 = BOXES[i]
        x, y = ((columns - x1) / (x2 - x1) * 2 - 1), ((rows - y1) / (y2 - y1) * 2 - 1)
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1)[None]
        expected = F.grid_sample(masks.bitmaps[i][None, None].float(), grid, align_corners=False)[0, 0] >= 0.5
        assert torch.equal(dense[i], expected), i
    assert dense[2].sum() <= 1 and not dense[3:6].any()


def test_run_lengths_need_no_dense_masks():
    masks = box_masks(BOXES)
    assert masks.encode() == encode_masks(masks.dense())
    full = BoxMasks(torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([[-50.0, -50.0, 120.0, 100.0]]), (50, 70))
    assert full.encode() == encode_masks(full.dense()) and full.dense().all()


def test_large_images_stay_small():
    masks = box_masks([[5990.0, 3990.0, 6000.0, 4000.0]] * 100, size=(4000, 6000))
    assert len(masks.encode()) == 100 and masks.encode()[0]["size"] == [4000, 6000]


@pytest.mark.parametrize("keep", [slice(1, 3), torch.tensor([2, 0]), torch.tensor([True] * 3 + [False] * 4)])
def test_selecting(keep):
    masks = box_masks(BOXES)
    assert torch.equal(masks[keep].cpu().dense(), masks.dense()[keep])
    assert len(masks[keep]) == len(masks.boxes[keep])
