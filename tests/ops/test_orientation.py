"""Boxes, masks and points move with the pixels, for every EXIF orientation."""

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.images import read_frame, read_photo
from detkit.ops.orientation import Turn
from detkit.ops.rle import decode_mask, encode_masks

STORED = (20, 30)
BOX = [3, 5, 10, 9]  # x1 y1 x2 y2 of a white rectangle in the stored pixels


def stored_mask():
    mask = np.zeros(STORED, dtype=bool)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = True
    return mask


@pytest.fixture(params=range(1, 9))
def photo(request, tmp_path):
    """A photo of that orientation, read, with the turn from its stored pixels to the upright ones."""
    exif = Image.Exif()
    exif[0x0112] = request.param
    Image.fromarray(stored_mask().astype(np.uint8) * 255).save(tmp_path / "photo.png", exif=exif)
    pixels, frame = read_photo(tmp_path / "photo.png")
    assert frame.orientation == request.param and frame.size == tuple(pixels.shape[1:])
    assert frame.stored_size == STORED and read_frame(tmp_path / "photo.png") == frame
    return pixels[0] > 0, Turn(frame.size, frame.orientation)


def test_masks_and_boxes_cover_the_pixels(photo):
    white, turn = photo
    assert torch.equal(turn.masks(torch.from_numpy(stored_mask())[None])[0], white)
    x1, y1, x2, y2 = turn.boxes(np.array([BOX], dtype=np.float32))[0].astype(int)
    assert white[y1:y2, x1:x2].all() and white.sum() == (x2 - x1) * (y2 - y1)


def test_segmentations_of_every_form(photo):
    white, turn = photo
    x1, y1, x2, y2 = BOX
    rle = encode_masks(stored_mask()[None])[0]
    runs = np.diff(np.flatnonzero(np.diff(np.pad(stored_mask().T.ravel().astype(int), 1))), prepend=0).tolist()
    counts = dict(size=list(STORED), counts=[*runs, STORED[0] * STORED[1] - sum(runs)])
    for form in ([[x1, y1, x2, y1, x2, y2, x1, y2]], rle, counts):
        assert (decode_mask(turn.segmentation(form), *turn.size) == white.numpy()).all()


def test_points_name_the_same_pixel(photo):
    white, turn = photo
    x, y = turn.points(np.array([[BOX[0], BOX[1]]], dtype=np.float32))[0].astype(int)
    assert white[y, x]
    corners = np.array([[0, 0], STORED[::-1]], dtype=np.float64)
    assert sorted(turn.corners(corners).tolist()) in (
        [[0, 0], [*turn.size[::-1]]],
        [[0, turn.size[0]], [turn.size[1], 0]],
    )
    inside = turn.points(corners)
    assert (inside >= 0).all() and (inside <= np.array(turn.size[::-1])).all()


def test_what_is_broken_stays_as_it_is():
    turn = Turn((30, 20), 6)
    good, stray = [3, 5, 10, 5, 10, 9], [48]
    assert turn.segmentation([good, stray])[1] == stray
    assert turn.segmentation([]) == []
