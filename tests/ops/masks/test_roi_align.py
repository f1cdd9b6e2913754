import torch
import torch.nn.functional as F

from detkit.ops.masks import MaskCrops
from detkit.ops.masks import crop_masks as crop_compact


def crop_masks(masks, boxes, side, **options):
    return crop_compact(MaskCrops.of_masks(masks, masks.shape[1:]), boxes, side, **options)


def disc(height, width, x, y, radius):
    columns, rows = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def crop_slowly(mask, box, side):
    """RoIAlign of one mask by its definition: every sample for itself."""
    x1, y1, x2, y2 = box.tolist()
    height, width = ((y2 - y1) / side, (x2 - x1) / side)
    rows, columns = max(1, -int(-height // 1)), max(1, -int(-width // 1))
    y = y1 + height * (torch.arange(side * rows) + 0.5) / rows
    x = x1 + width * (torch.arange(side * columns) + 0.5) / columns
    grid = torch.stack(torch.broadcast_tensors(x * 2 / mask.shape[1] - 1, y[:, None] * 2 / mask.shape[0] - 1), dim=-1)
    sampled = F.grid_sample(mask.float()[None, None], grid[None], padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, (rows, columns))[0, 0]


def test_crops_are_roi_align():
    boxes = torch.tensor([[3.3, 4.2, 41.7, 30.1], [0, 0, 60, 40], [10.5, 7.25, 14.5, 38.6], [55, 2, 60, 9]])
    masks = torch.stack([disc(40, 60, 20 + 5 * i, 18, 9 + i) for i in range(4)])
    masks[3, :, -3:] = True
    crops = crop_masks(masks, boxes, 16)
    assert crops.shape == (4, 16, 16) and crops.dtype == torch.bool
    for mask, box, crop in zip(masks, boxes, crops, strict=True):
        means = crop_slowly(mask, box, 16)
        certain = (means - 0.5).abs() > 1e-4
        assert torch.equal(crop[certain], (means >= 0.5)[certain])


def test_the_frame_decides_what_lies_beyond_the_edge():
    masks, boxes = torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    assert crop_masks(masks, boxes, 16).all()
    padded = F.pad(masks, (0, 3, 0, 2))
    framed = crop_masks(masks, boxes, 16, frame=(6, 7))
    assert torch.equal(framed, crop_masks(padded, boxes, 16)) and not framed[0, -1, -1] and framed[0, 0, 0]


def test_more_masks_than_are_cropped_at_a_time_and_none():
    masks = torch.stack([disc(30, 30, i, 15, 8) for i in range(40)])
    boxes = torch.tensor([[2.0, 3.0, 25.0, 28.0]]).expand(40, 4)
    crops = crop_masks(masks, boxes, 8)
    assert torch.equal(crops[33], crop_masks(masks[33:34], boxes[:1], 8)[0])
    assert crop_masks(masks[:0], boxes[:0], 8).shape == (0, 8, 8)


def test_empty_masks_have_empty_bitmaps():
    masks = torch.zeros(2, 9, 9, dtype=torch.bool)
    assert not crop_masks(masks, torch.tensor([[1.0, 1.0, 8.0, 8.0]] * 2), 4).any()
