import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cv2 import INTER_NEAREST_EXACT
from white_boxes import assert_consistent, rng, white_boxes

from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import DetrAugment, RandomFlip, Resize
from detkit.ops.masks import MaskCrops
from detkit.registry import build
from detkit.structures import Annotations

TRANSFORMS = {
    "flip": RandomFlip(1.0),
    "resize": Resize(600, 1000, 16),
    "shrink": Resize(200, 1000, 16),
    "random size": DetrAugment(crop_probability=0, flip_probability=0),
    "random size, flipped": DetrAugment(crop_probability=0, flip_probability=1),
    "crop": DetrAugment(crop_probability=1, flip_probability=0, crop_size=(250, 400)),
    "crop, flipped": DetrAugment(crop_probability=1, flip_probability=1, crop_size=(250, 400)),
    "shrinking crop": DetrAugment(shortest=(240,), crop_probability=1, crop_resize=(400,), crop_size=(200, 400)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", range(4))
def test_boxes_masks_and_points_follow_the_pixels(name, seed):
    image, annotations = white_boxes()
    untouched = white_boxes()
    moved, found = TRANSFORMS[name](image, annotations, rng(seed))
    assert moved.dtype == torch.uint8 and moved.is_contiguous() and len(found) >= 1
    assert found.masks.shape[1:] == moved.shape[1:] and found.masks.dtype == torch.bool
    assert_consistent(moved, found)
    assert torch.equal(image, untouched[0]) and torch.equal(annotations.boxes, untouched[1].boxes)
    assert (found.image_id, found.original_size) == (7, (480, 640))
    height, width = moved.shape[1:]
    for box, point in zip(found.boxes, found.points, strict=True):
        inside = (box[:2] > 1).all() and (box[2:] < torch.tensor([width, height]) - 1).all()
        if inside:  # the crop took nothing of it
            assert point.tolist() == pytest.approx(((box[:2] + box[2:] - 1) / 2).tolist(), abs=1e-2)


def test_points_are_pixel_indices_as_the_centres_of_masks():
    mask = torch.zeros(1, 4, 7, dtype=torch.bool)
    mask[0, 1, 5] = True
    one = Annotations(torch.tensor([[5.0, 1.0, 6.0, 2.0]]), torch.zeros(1).long(), mask, torch.tensor([[5.0, 1.0]]))
    for transform in (RandomFlip(1.0), Resize(8, 14, 1), Resize(12, 21, 1)):
        found = transform(torch.zeros(3, 4, 7, dtype=torch.uint8), one, rng())[1]
        rows, columns = found.masks[0].nonzero().float().unbind(1)
        assert found.points.tolist() == [[columns.mean(), rows.mean()]]


@pytest.mark.parametrize("seed", range(10))
def test_labels_stay_with_their_objects_when_a_crop_drops_some(seed):
    image, annotations = white_boxes()
    gray = torch.tensor([60, 120, 180, 240], dtype=torch.uint8)
    for value, mask in zip(gray, annotations.masks, strict=True):
        image[:, mask] = value
    moved, found = DetrAugment(crop_probability=1, crop_resize=(480,), crop_size=(128, 400))(
        image, annotations, rng(seed)
    )
    assert len(found) < 4 or seed
    for label, mask in zip(found.labels, found.masks, strict=True):
        assert moved[0][mask].float().median() == gray[label]
    assert len({len(found.boxes), len(found.labels), len(found.masks), len(found.points)}) == 1


def test_a_point_outside_the_crop_keeps_its_object():
    image, annotations = white_boxes()
    annotations = replace(annotations, points=annotations.points.clone().fill_(-1000))
    augment = DetrAugment(crop_probability=1, flip_probability=0, crop_size=(250, 400))
    for seed in range(5):
        with_points = augment(image, annotations, rng(seed))[1]
        assert len(with_points) == len(augment(image, replace(annotations, points=None), rng(seed))[1])
        assert (with_points.points < 0).all()


def test_objects_whose_mask_is_cropped_away_are_dropped():
    image, annotations = white_boxes()
    masks = annotations.masks.clone()
    masks[1] = False
    _, found = DetrAugment(crop_probability=0)(image, replace(annotations, masks=masks), rng())
    assert found.labels.tolist() == [0, 2, 3] and len(found.boxes) == len(found.masks) == len(found.points) == 3


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_those_of_albumentations(seed):
    """Its Compose moves full masks; here they move by the pixels that they show."""
    masks = torch.rand(5, 97, 141, generator=torch.Generator().manual_seed(seed)) > 0.5
    plan = DetrAugment(shortest=[64, 160], crop_resize=[80, 120], crop_size=(50, 90))._draw_plan((97, 141), rng(seed))
    for step in plan.steps:
        if hasattr(step, "mask_interpolation"):
            step.mask_interpolation = INTER_NEAREST_EXACT
    image = np.zeros((97, 141, 3), np.uint8)
    boxes = {"bboxes": np.zeros((0, 4)), "index": np.zeros(0)}
    moved = plan.compose()(image=image, masks=masks.numpy().view(np.uint8), **boxes)["masks"]
    found = MaskCrops.of_masks(masks, (97, 141)).resampled(plan.rows, plan.columns).dense()
    assert np.array_equal(found.numpy(), np.asarray(moved))


@pytest.mark.parametrize("seed", range(6))
def test_resized_masks_are_those_of_torch(seed):
    image, annotations = white_boxes(*np.random.default_rng(seed).integers(460, 700, 2).tolist())
    resized, found = Resize(130 + 17 * seed, 400, 1)(image, annotations, rng())
    wanted = F.interpolate(annotations.masks[None].byte(), size=resized.shape[1:], mode="nearest-exact")[0].bool()
    assert torch.equal(found.masks, wanted)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_without_objects(name, masks):
    empty = torch.zeros(0, 480, 640, dtype=torch.bool) if masks else None
    annotations = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), empty)
    moved, found = TRANSFORMS[name](white_boxes()[0], annotations, rng())
    assert found.boxes.shape == (0, 4) and found.labels.dtype == torch.int64 and found.points is None
    assert found.masks.shape == (0, *moved.shape[1:]) if masks else found.masks is None


def test_sizes_are_those_of_the_paper():
    image, annotations = SyntheticScenes(1, size=(427, 640))[0]
    shortest = set()
    for seed in range(60):
        moved, _ = DetrAugment(crop_probability=0)(image, annotations, rng(seed))
        height, width = moved.shape[1:]
        assert height % 16 == width % 16 == 0 and width <= 1333 and width == int(height * 640 / 427) // 16 * 16
        shortest.add(height)
    assert shortest <= set(range(480, 801, 16)) and len(shortest) > 15
    for seed in range(30):
        moved, _ = DetrAugment(crop_probability=1)(image, annotations, rng(seed))
        height, width = moved.shape[1:]
        assert height % 16 == width % 16 == 0 and max(height, width) <= 1333 and min(height, width) <= 800
        assert max(height, width) / min(height, width) <= 600 / 384 + 0.05


def test_crops_and_flips_come_as_often_as_asked():
    image, annotations = SyntheticScenes(1, size=(200, 300), masks=False)[0]
    augment = DetrAugment(shortest=(64,), crop_resize=(80,), crop_size=(64, 64))
    widths = [augment(image, annotations, rng(seed))[0].shape[2] for seed in range(100)]
    assert set(widths) == {64, 96} and 0.35 < np.mean(np.array(widths) == 64) < 0.65
    flips = [torch.equal(RandomFlip(0.3)(image, annotations, rng(seed))[0], image.flip(2)) for seed in range(100)]
    assert 0.2 < np.mean(flips) < 0.4


def test_randomness_comes_from_the_generator_alone():
    image, annotations = SyntheticScenes(1, size=(200, 300))[0]
    augment = DetrAugment(shortest=(64, 80, 96), crop_resize=(80,), crop_size=(48, 80))
    first = augment(image, annotations, rng(5))
    torch.manual_seed(1), np.random.seed(1)
    again = augment(image, annotations, rng(5))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1].boxes, again[1].boxes)
    others = [augment(image, annotations, rng(seed))[0] for seed in range(6, 12)]
    assert any(other.shape != first[0].shape or not torch.equal(other, first[0]) for other in others)


def test_a_crop_larger_than_the_image_takes_what_there_is():
    image, annotations = SyntheticScenes(1, size=64)[0]
    moved, found = DetrAugment(shortest=(64,), crop_probability=1, crop_resize=(64,), crop_size=(384, 600))(
        image, annotations, rng()
    )
    assert moved.shape == (3, 64, 64) and len(found) == len(annotations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 2}, "flip_probability: must be a number from 0 to 1"),
        ({"shortest": ()}, "shortest: must be a list that is not empty"),
        ({"shortest": (8,)}, "must hold sizes of at least multiple=16"),
        ({"crop_size": (600, 384)}, "crop_size must be two ascending"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        build({"type": "DetrAugment", **options})


def test_a_missing_albumentations_is_named():
    code = (
        "import sys; sys.modules['albumentations'] = None\nfrom detkit.data import transforms\ntransforms.DetrAugment()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DetrAugment needs albumentations: pip install albumentations" in result.stderr
