import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from detkit.ops.masks.outlines import join_polygons, mask_outlines, polygon_area
from detkit.ops.rle import decode_mask


@pytest.mark.parametrize("seed", range(12))
def test_outlines_give_the_mask_again(seed):
    """Also as one polygon; with holes, pixels that touch at corners, and everything at the border."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(31, 44))
    mask = (gaussian_filter(noise, seed / 4) if seed else noise) > 0
    outlines = mask_outlines(mask)
    joined = join_polygons(outlines)
    assert (decode_mask([joined], *mask.shape) == mask).all()
    assert abs(polygon_area(joined)) == mask.sum() == abs(sum(map(polygon_area, outlines)))


def test_a_rectangle_has_four_corners():
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:5, 3:8] = True
    (outline,) = mask_outlines(mask)
    assert sorted(zip(outline[::2], outline[1::2], strict=True)) == [(3, 2), (3, 5), (8, 2), (8, 5)]
    assert mask_outlines(np.zeros((4, 4), dtype=bool)) == []


def test_one_polygon_stays_as_it_is():
    assert join_polygons([[1, 2, 3, 4, 5, 0]]) == [1, 2, 3, 4, 5, 0]
