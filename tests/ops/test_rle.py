import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from detkit.ops.rle import decode_mask, encode_masks, encode_region

SQUARE = np.zeros((20, 30), dtype=bool)
SQUARE[5:15, 10:20] = True
POLYGON = [[10, 5, 20, 5, 20, 15, 10, 15]]


def runs_of(mask):
    """Uncompressed run lengths, column by column, zeros first."""
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def test_masks_survive_encoding_and_json():
    masks = torch.rand(7, 33, 21, generator=torch.Generator().manual_seed(0)) < 0.4
    masks[2], masks[3] = False, True
    encoded = json.loads(json.dumps(encode_masks(masks)))
    assert len(encoded) == 7 and encoded[0]["size"] == [33, 21] and isinstance(encoded[0]["counts"], str)
    for rle, mask in zip(encoded, masks.numpy(), strict=True):
        decoded = decode_mask(rle, 33, 21)
        assert decoded.dtype == bool and (decoded == mask).all()


def test_numpy_masks_and_no_masks():
    assert encode_masks(SQUARE[None]) == encode_masks(torch.from_numpy(SQUARE)[None])
    assert encode_masks(torch.zeros(0, 4, 5, dtype=torch.bool)) == []


def test_all_formats_describe_the_same_mask():
    compressed = encode_masks(SQUARE[None])[0]
    as_bytes = {**compressed, "counts": compressed["counts"].encode()}
    for segmentation in (POLYGON, compressed, as_bytes, {"size": [20, 30], "counts": runs_of(SQUARE)}):
        assert (decode_mask(segmentation, 20, 30) == SQUARE).all()


def test_several_polygons_are_united():
    left, right = [10, 5, 16, 5, 16, 15, 10, 15], [14, 5, 20, 5, 20, 15, 14, 15]
    assert (decode_mask([left, right], 20, 30) == SQUARE).all()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "must be polygons or run lengths"),
        ("abc", "must be polygons or run lengths"),
        ([[1, 2, 3, 4]], "polygon 0 must be a list of at least 3"),
        ([POLYGON[0], [1, 2, 3, 4, 5, 6, 7]], "polygon 1"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, 10**400]], "not finite"),
        ([[1, 2, 3, 4, 5, True]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e7]], "coordinate 1e+07, far outside of the 30 x 20 pixels".replace("+", r"\+")),
        ([[0, 0, 1000, 19] * 1100], "outline of more than"),
        ({"size": 7, "counts": [600]}, r"must be .height, width., got 7"),
        ({"size": [20.0, 30], "counts": [600]}, r"must be .height, width."),
        ({"size": [20, 30], "counts": [True, 599]}, "non-negative"),
        ({"size": [20, 30], "counts": "\u00e9\u00e9"}, "damaged"),
        ({"size": [20, 30]}, '"size" and "counts"'),
        ({"size": [30, 20], "counts": [600]}, "for an image of height, width"),
        ({"size": [20, 30], "counts": [10, 20]}, "add up to 20 x 30"),
        ({"size": [20, 30], "counts": [-10, 610]}, "non-negative"),
        ({"size": [20, 30], "counts": encode_masks(SQUARE[None])[0]["counts"][:4]}, "damaged"),
        ({"size": [20, 30], "counts": ""}, "damaged"),
    ],
)
def test_malformed_segmentations_are_errors(segmentation, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(segmentation, 20, 30)


def test_masks_must_have_three_dimensions():
    with pytest.raises(ValueError, match=r"expected \[n, h, w\]"):
        encode_masks(SQUARE)


def test_importing_needs_no_pycocotools():
    code = "import sys, detkit.ops.rle, detkit.data; print([m for m in sys.modules if m in (%r, %r, %r)])"
    names = ("pycocotools", "cv2", "albumentations")
    output = subprocess.run([sys.executable, "-c", code % names], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_a_region_is_encoded_like_the_whole_mask(size, density):
    region = np.random.default_rng(0).random(size) < density
    for height, width, top, left in ((12, 11, 2, 3), (size[0], 11, 0, 3), (12, size[1], 5, 0), (*size, 0, 0)):
        if top + size[0] > height or left + size[1] > width:
            continue
        mask = np.zeros((1, height, width), dtype=bool)
        mask[0, top : top + size[0], left : left + size[1]] = region
        assert encode_region(region, top, left, height, width) == encode_masks(mask)[0]
