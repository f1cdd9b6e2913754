import numpy as np
import pytest
import torch
from white_boxes import assert_consistent, rng, white_boxes

from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import CopyPaste, MixUp, Mosaic, ScaleJitter
from detkit.registry import build
from detkit.structures import Annotations

EMPTY = Annotations(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 480, 640).bool(), torch.zeros(0, 2))


def black_between(image):
    """The image without the grey that is no part of any image."""
    return torch.where(image == 114, 0, image)


@pytest.mark.parametrize("seed", range(6))
def test_in_a_mosaic_boxes_masks_and_points_follow_the_pixels(seed):
    others = [white_boxes(480, 640), white_boxes(480, 700), white_boxes(500, 640)]
    image, found = Mosaic(600, probability=1)(*white_boxes(), rng(seed), others)
    assert image.shape == (3, 600, 600) and image.dtype == torch.uint8
    assert_consistent(black_between(image), found, tolerance=2.5)
    assert (found.image_id, found.original_size) == (7, (480, 640)) and len(found) > 4
    for box, point in zip(found.boxes, found.points, strict=True):
        left = (point == -1).all()  # its cell
        assert left or ((point > box[:2] - 2).all() and (point < box[2:] + 2).all())


def test_a_mosaic_shows_parts_of_all_four_images():
    images = [torch.full((3, 50, 70), value, dtype=torch.uint8) for value in (10, 20, 30, 40)]
    nothing = Annotations(torch.zeros(0, 4), torch.zeros(0).long())
    samples = [(image, nothing) for image in images]
    shown = [Mosaic(64, scale=(2.5, 3), probability=1)(*samples[0], rng(s), samples[1:])[0] for s in range(5)]
    for image in shown:
        assert set(image.unique().tolist()) == {10, 20, 30, 40}
    assert len({tuple(image[0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist()) for image in shown}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_scale_jitter_keeps_the_size_and_moves_everything(seed):
    image, found = ScaleJitter((0.4, 2.0))(*white_boxes(), rng(seed))
    assert image.shape == (3, 480, 640)
    assert_consistent(black_between(image), found, tolerance=2.5)
    sizes = [ScaleJitter((0.5, 2.0))(*white_boxes(), rng(s))[1].boxes for s in range(20)]
    widths = torch.stack([(boxes[:, 2] - boxes[:, 0]).max() for boxes in sizes])
    assert widths.min() < 120 and widths.max() > 200


def test_mix_up_has_the_objects_of_both():
    dark, bright = torch.zeros(3, 100, 200, dtype=torch.uint8), torch.full((3, 50, 50), 200, dtype=torch.uint8)
    own = Annotations(torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([0]))
    other = Annotations(torch.tensor([[10.0, 0, 50, 50]]), torch.tensor([1]))
    image, found = MixUp(probability=1)(dark, own, rng(1), [(bright, other)])
    assert image.shape == dark.shape and found.labels.tolist() == [0, 1]
    x1, y1, x2, y2 = found.boxes[1].round().int().tolist()
    assert (y1, y2, x2 - x1) == (0, 100, 80)  # resized to fit
    inside, outside = image[:, :, x1:x2], image[:, :, x2 + 1 :]
    assert 60 < inside.float().mean() < 140 and not outside.any()
    assert torch.equal(dark, torch.zeros_like(dark))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("transform", [Mosaic(64, probability=1), MixUp(probability=1), CopyPaste(probability=1)])
def test_images_without_objects(transform, masks):
    empty = Annotations(EMPTY.boxes, EMPTY.labels, EMPTY.masks if masks else None)
    image = white_boxes()[0]
    moved, found = transform(image, empty, rng(), [(image, empty)] * transform.number)
    assert found.boxes.shape == (0, 4) and found.labels.dtype == torch.int64 and found.points is None
    assert found.masks.shape == (0, *moved.shape[1:]) if masks else found.masks is None


def test_masks_stay_compressed():
    scenes = SyntheticScenes(4, size=(96, 128))
    samples = [scenes[i] for i in range(4)]
    for transform in (Mosaic(96, probability=1), MixUp(probability=1), CopyPaste(probability=1)):
        _, found = transform(*samples[0], rng(), samples[1 : 1 + transform.number])
        assert not isinstance(found.stored_masks, torch.Tensor)


def test_probability_is_how_often_partners_are_wanted():
    drawn = [Mosaic(64, probability=0.3).partners(np.random.default_rng(seed)) for seed in range(200)]
    assert set(drawn) == {0, 3} and 0.2 < np.mean(np.array(drawn) == 3) < 0.4
    assert MixUp(probability=0).partners(rng()) == 0 and CopyPaste(probability=1).partners(rng()) == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="Mosaic"), "missing argument 'side' of Mosaic"),
        (dict(type="Mosaic", side=8), "side: must be a whole number from 32"),
        (dict(type="Mosaic", side=64, scale=[2, 1]), "scale must be two ascending factors"),
        (dict(type="Mosaic", side=64, centre=[0.7, 0.3]), "centre must be two ascending shares"),
        (dict(type="Mosaic", side=64, until=0), "until: must be a number above 0 and at most 1"),
        (dict(type="MixUp", alpha=0), "alpha: must be a number from 0.01"),
        (dict(type="MixUp", probability=1.5), "probability: must be a number from 0 to 1"),
        (dict(type="ScaleJitter", scale=[0, 1]), "scale: must be a list of 2 items"),
        (dict(type="CopyPaste", objects=[3, 1]), "objects must be two ascending numbers"),
        (dict(type="CopyPaste", min_visible=0), "min_visible: must be a number above 0"),
        (dict(type="CopyPaste", untill=1), "unknown argument 'untill' of CopyPaste, did you mean 'until'?"),
    ],
)
def test_options_out_of_range_are_errors(config, message):
    with pytest.raises(ValueError, match=message):
        build(config)
