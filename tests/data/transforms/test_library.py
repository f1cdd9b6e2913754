import subprocess
import sys

import numpy as np
import pytest
import torch
from white_boxes import rng, white_boxes

from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import Albumentations
from detkit.registry import build, check_all
from detkit.structures import Annotations

SPATIAL = {
    "rotation": [dict(type="Rotate", limit=[20, 40], p=1)],
    "affine": [dict(type="Affine", scale=[0.6, 0.9], translate_percent=[-0.1, 0.1], shear=[-10, 10], p=1)],
    "perspective": [dict(type="Perspective", scale=[0.05, 0.1], p=1)],
    "flip": [dict(type="HorizontalFlip", p=1), dict(type="VerticalFlip", p=1)],
    "turn": [dict(type="RandomRotate90", p=1)],
    "crop": [dict(type="RandomResizedCrop", size=[200, 300], scale=[0.3, 0.6], p=1)],
    "one of": [dict(type="OneOf", transforms=[dict(type="Transpose", p=1), dict(type="D4", p=1)], p=1)],
    "elastic": [dict(type="ElasticTransform", alpha=30, sigma=10, p=1)],
}
COLOUR = [dict(type="HueSaturationValue", p=1), dict(type="GaussNoise", p=1), dict(type="CLAHE", p=0.5)]


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_those_of_the_moved_masks_and_points_stay_on_them(name, seed):
    moved, found = Albumentations(SPATIAL[name])(*white_boxes(), rng(seed))
    white = moved[0] > 127
    assert moved.is_contiguous() and found.masks.shape[1:] == moved.shape[1:] and len(found) >= 1
    for box, mask, point in zip(found.boxes, found.masks, found.points, strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert white[mask].float().mean() > 0.95
        x, y = point.round().int().tolist()
        if 0 <= x < moved.shape[2] and 0 <= y < moved.shape[1] and mask.sum() > 5000:
            assert mask[y, x]  # a point is the centre of its rectangle
    assert (found.masks.any(0) == white).float().mean() > 0.98
    assert (found.image_id, found.original_size) == (7, (480, 640))


def test_boxes_without_masks_are_those_of_albumentations():
    image, known = white_boxes()
    known = Annotations(known.boxes, known.labels)
    moved, found = Albumentations([dict(type="HorizontalFlip", p=1)])(image, known, rng())
    assert torch.equal(moved, image.flip(2)) and found.masks is None and found.points is None
    assert found.boxes[:, [2, 0]].tolist() == pytest.approx((640 - known.boxes[:, [0, 2]]).numpy(), abs=1e-3)


def test_changes_of_colour_leave_the_annotations_as_they_are():
    image, known = SyntheticScenes(1, size=64)[0]
    moved, found = Albumentations(COLOUR)(image, known, rng())
    assert found is known and moved.shape == image.shape and not torch.equal(moved, image)


@pytest.mark.parametrize("pipeline", [COLOUR, *SPATIAL.values(), [dict(type="CoarseDropout", p=1)]])
def test_randomness_comes_from_the_generator_alone(pipeline):
    image, known = SyntheticScenes(1, size=(240, 320))[0]
    transform = Albumentations(pipeline)
    first = transform(image, known, rng(5))
    torch.manual_seed(1), np.random.seed(1)
    transform(image, known, rng(6))
    for again in (transform(image, known, rng(5)), Albumentations(pipeline)(image, known, rng(5))):
        assert torch.equal(first[0], again[0]) and torch.equal(first[1].boxes, again[1].boxes)


def test_objects_that_leave_the_image_are_dropped_with_all_that_is_known_of_them():
    image, known = white_boxes()
    _, found = Albumentations([dict(type="Crop", x_min=200, y_min=0, x_max=640, y_max=280, p=1)])(image, known, rng())
    assert found.labels.tolist() == [1, 2]
    assert len(found.boxes) == len(found.masks) == len(found.points) == 2


@pytest.mark.parametrize("masks", [True, False])
def test_images_without_objects(masks):
    empty = Annotations(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 480, 640).bool() if masks else None)
    moved, found = Albumentations(SPATIAL["crop"])(white_boxes()[0], empty, rng())
    assert found.boxes.shape == (0, 4) and found.labels.dtype == torch.int64
    assert found.masks.shape == (0, *moved.shape[1:]) if masks else found.masks is None


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        (
            [dict(type="HueSaturationValu")],
            r"pipeline.0: albumentations has no step 'HueSaturationValu', did you mean 'Hue",
        ),
        ([dict(type="Compose", transforms=[])], r"pipeline.0: albumentations has no step 'Compose'"),
        ([dict(type="Blur"), dict(type="Blur", pp=1)], r"pipeline.1: unknown argument 'pp' of Blur, did you mean 'p'"),
        (
            [dict(type="HueSaturationValue", hue_shift_limit="x")],
            r"pipeline.0 \(HueSaturationValue\): hue_shift_limit: ",
        ),
        ([dict(type="OneOf")], r"pipeline.0: OneOf needs a list of steps as 'transforms', got None"),
        ([dict(type="OneOf", transforms=[dict(type="Blurr")])], r"pipeline.0.transforms.0: albumentations has no step"),
        ([dict(p=1)], r"pipeline.0: expected a dict with the name of a class in albumentations as 'type'"),
        ([], r"pipeline: must be a list that is not empty"),
    ],
)
def test_wrong_pipelines_are_errors_in_one_line(pipeline, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(dict(type="Albumentations", pipeline=pipeline), path="data.transforms.0")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("data.transforms.0")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (dict(type="Normalize", p=1), "must give an image of uint8 .* it gave float32"),
        (dict(type="RandomCrop", height=999, width=999, p=1), "scene.png: a step of albumentations failed: .*999"),
    ],
)
def test_what_fails_on_an_image_is_named(step, message):
    image, known = white_boxes()
    known.file_name = "scene.png"
    with pytest.raises(ValueError, match=message):
        Albumentations([step])(image, known, rng())


def test_the_steps_are_no_components_of_detkit():
    check_all([dict(type="Albumentations", pipeline=[dict(type="Blur", p=1)])], "data.transforms")
    assert len(build(dict(type="Albumentations", pipeline=[dict(type="Blur", p=1)])).compose.transforms) == 1


def test_albumentations_is_imported_when_it_is_used():
    code = (
        "import sys\nfrom detkit.runtime.components import import_components\nimport_components()\n"
        "assert 'albumentations' not in sys.modules\nsys.modules['albumentations'] = None\n"
        "from detkit.data.transforms import Albumentations\nAlbumentations([dict(type='Blur')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Albumentations needs albumentations: pip install albumentations" in result.stderr
