"""Training transforms of pairs: points, boxes and weights follow the pixels."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from detkit.data.loading import train_loader
from detkit.data.pairs.colour import CHANGES, PairColour
from detkit.data.pairs.transforms import KeyOut, PairResize, PairSwap, RandomObjectCrop, RandomPairFlip
from detkit.data.pairs.warp import RandomPairWarp
from detkit.registry import ConfigError, build
from detkit.runtime.components import import_components
from detkit.structures import ImagePair, PairAnnotations

SIZES = (96, 128), (80, 112)


def dotted(points, size):
    """An image of `size` (h, w) with a soft bright dot at each point."""
    y, x = (np.arange(side) + 0.5 for side in size)
    dots = [np.exp(-((x - px) ** 2 + (y[:, None] - py) ** 2) / 8) for px, py in points]
    image = 20 + 230 * np.maximum.reduce([*dots, np.zeros(size)])
    return torch.from_numpy(np.repeat(image.round().astype(np.uint8)[None], 3, 0))


def sample(**fields):
    """A pair whose points are marked by dots; the dots are far from each other."""
    source = torch.tensor([[40.0, 30.0], [80.5, 50.25], [60.0, 70.0]])
    target = torch.tensor([[30.0, 25.0], [70.0, 45.5], [90.75, 60.0]])
    known = PairAnnotations(
        source,
        target,
        torch.tensor([30.0, 20.0, 95.0, 80.0]),
        torch.tensor([20.0, 15.0, 100.0, 70.0]),
        weights=torch.tensor([0.2, 0.5, 1.0]),
        pair_id=3,
        source_size=SIZES[0],
        target_size=SIZES[1],
        **fields,
    )
    return ImagePair(dotted(source.tolist(), SIZES[0]), dotted(target.tolist(), SIZES[1])), known


def centre_of_dot(image, point, reach=7):
    """The centre of mass of what is bright around a point."""
    h, w = image.shape[1:]
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    bright = (image[0].float() - 20).clamp(min=0) * ((x - point[0]) ** 2 + (y - point[1]) ** 2 <= reach**2)
    return torch.stack([(bright * x).sum(), (bright * y).sum()]) / bright.sum()


def check_dots(pair, known, tolerance):
    """Every point lies on its dot, wherever the dot is whole."""
    checked = 0
    for image, points in ((pair.source, known.source_points), (pair.target, known.target_points)):
        h, w = image.shape[1:]
        for point in points:
            if (point > 9).all() and (point < torch.tensor([w - 9.0, h - 9.0])).all():
                assert (centre_of_dot(image, point) - point).norm() < tolerance
                checked += 1
    return checked


def rngs(count):
    return [np.random.default_rng((5, i)) for i in range(count)]


def check_contents(pair, known):
    for image, points, box, size in (
        (pair.source, known.source_points, known.source_box, known.source_size),
        (pair.target, known.target_points, known.target_box, known.target_size),
    ):
        h, w = image.shape[1:]
        assert image.dtype == torch.uint8 and image.is_contiguous() and size == (h, w)
        limit = torch.tensor([w, h])
        assert (points >= 0).all() and (points <= limit).all()
        assert (box >= 0).all() and (box <= limit.repeat(2)).all() and (box[2:] > box[:2]).all()
    assert len(known.weights) == len(known.source_points) == len(known.target_points)


def test_a_crop_holds_the_whole_object_and_its_dots():
    crop, sizes = RandomObjectCrop(1.0), set()
    for rng in rngs(40):
        pair, known = crop(*sample(), rng)
        check_contents(pair, known)
        assert len(known) == 3 and check_dots(pair, known, 0.3) >= 4
        before = sample()[1]
        assert torch.equal(known.source_box[2:] - known.source_box[:2], before.source_box[2:] - before.source_box[:2])
        sizes.add(tuple(pair.source.shape[1:]))
    assert len(sizes) > 30 and all(60 <= h <= 96 and 65 <= w <= 128 for h, w in sizes)


def test_points_outside_of_a_crop_go_from_both_images_with_their_weight():
    images, known = sample()
    known.source_points[1] = torch.tensor([127.0, 95.0])
    counts = set()
    for rng in rngs(20):
        _, cropped = RandomObjectCrop(1.0, images=["source"])(images, known, rng)
        counts.add(len(cropped))
        if len(cropped) == 2:
            assert cropped.weights.tolist() == pytest.approx([0.2, 1.0])
            assert torch.equal(cropped.target_points, known.target_points[[0, 2]])
    assert 2 in counts


def test_a_crop_without_box_keeps_the_points_and_without_points_does_nothing():
    images, known = sample()
    known.source_box = known.target_box = None
    for rng in rngs(10):
        pair, cropped = RandomObjectCrop(1.0)(images, known, rng)
        assert len(cropped) == 3 and cropped.source_box is None and check_dots(pair, cropped, 0.3) >= 2
    nothing = PairAnnotations(torch.zeros(0, 2), torch.zeros(0, 2))
    pair, cropped = RandomObjectCrop(1.0)(images, nothing, np.random.default_rng(0))
    assert torch.equal(pair.source, images.source) and len(cropped) == 0


def test_the_smallest_object_at_the_edge_can_be_cropped():
    images, known = sample()
    known.source_box = torch.tensor([128.0, 96.0, 128.0, 96.0])
    for rng in rngs(20):
        assert RandomObjectCrop(1.0)(images, known, rng)[0].source.numel() > 0


def test_points_of_a_warp_lie_on_their_dots_and_boxes_around_them():
    warp, checked, kept = RandomPairWarp(1.0), 0, 0
    for rng in rngs(40):
        pair, known = warp(*sample(), rng)
        assert pair.source.shape == (3, *SIZES[0]) and pair.target.shape == (3, *SIZES[1])
        checked += check_dots(pair, known, 1.2)
        kept += len(known)
        for points, box in ((known.source_points, known.source_box), (known.target_points, known.target_box)):
            assert (points >= box[:2] - 1).all() and (points <= box[2:] + 1).all()
    assert checked > 60 and kept > 60


def test_a_warp_without_bend_is_exact_to_a_tenth_of_a_pixel():
    warp = RandomPairWarp(1.0, bend=0.0, scale=0.1)
    assert sum(check_dots(*warp(*sample(), rng), 0.1) for rng in rngs(20)) > 60


def test_the_inverse_of_a_warp_is_exact():
    """Places of the result that are fetched from somewhere are found again from there."""
    for rng in rngs(30):
        warp = RandomPairWarp().draw(rng)
        assert not warp.folds()
        places = torch.from_numpy(rng.uniform(-1, 1, (200, 2)))
        found, solved = warp.appears_at(warp.fetched_from(places))
        assert solved.all() and (found - places).abs().max() < 1e-4


def test_a_still_warp_changes_nothing():
    images, known = sample()
    still = RandomPairWarp(1.0, rotation=0, shear=0, scale=0, shift=0, bend=0)
    pair, moved = still(images, known, np.random.default_rng(0))
    assert (pair.source.int() - images.source.int()).abs().max() <= 1
    assert torch.allclose(moved.source_points, known.source_points, atol=1e-3)
    assert torch.allclose(moved.target_box, known.target_box, atol=1e-3)


def test_both_images_are_mirrored():
    images, known = sample()
    pair, flipped = RandomPairFlip(1.0)(images, known, np.random.default_rng(0))
    assert torch.equal(flipped.source_points[:, 0], 128 - known.source_points[:, 0])
    assert torch.equal(flipped.target_points[:, 0], 112 - known.target_points[:, 0])
    assert flipped.source_box.tolist() == [33.0, 20.0, 98.0, 80.0]
    check_contents(ImagePair(pair.source.contiguous(), pair.target.contiguous()), flipped)
    assert check_dots(pair, flipped, 0.3) == 6


def test_swap_exchanges_everything():
    images, known = sample()
    pair, swapped = PairSwap(1.0)(images, known, np.random.default_rng(0))
    assert pair.source is images.target and torch.equal(swapped.source_points, known.target_points)
    assert torch.equal(swapped.source_box, known.target_box) and swapped.source_size == known.target_size
    assert PairSwap(0.0)(images, known, np.random.default_rng(0))[0] is images


def test_resize_stretches_to_a_square():
    pair, known = PairResize(64)(*sample(), np.random.default_rng(0))
    assert pair.source.shape == pair.target.shape == (3, 64, 64)
    assert known.source_points[0].tolist() == [20.0, 20.0] and known.source_size == (64, 64)
    check_contents(pair, known)
    assert check_dots(pair, known, 0.3) >= 4


def test_key_out_covers_points_of_the_target_only():
    images, known = sample()
    pair, after = KeyOut(1.0, size=(0.1, 0.1))(images, known, np.random.default_rng(0))
    assert torch.equal(pair.source, images.source) and torch.equal(after.target_points, known.target_points)
    assert not torch.equal(pair.target, images.target) and images.target.min() == 20
    covered = (pair.target[0] == 0).nonzero()
    assert len(covered) == pytest.approx(3 * 8**2, abs=60)
    for x, y in known.target_points.int().tolist():
        assert pair.target[:, y, x].eq(0).all()
    share = np.mean([(KeyOut(0.2)(*sample(), rng)[0].target == 0).any() for rng in rngs(100)])
    assert 0.3 < share < 0.65  # 1 - 0.8 ** 3 is 0.49


def test_colours_change_both_images_independently_and_repeat():
    images, known = sample()
    noise = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImagePair(noise, noise.clone())
    colour, differ, same = PairColour(), 0, 0
    for rng, again in zip(rngs(30), rngs(30), strict=True):
        pair, after = colour(images, known, rng)
        assert after.source_points is not None and pair.source.dtype == torch.uint8
        assert torch.equal(pair.source, colour(images, known, again)[0].source)
        differ += not torch.equal(pair.source, pair.target)
        same += torch.equal(pair.source, noise)
    assert differ > 20 and same < 15
    assert torch.equal(images.source, noise) and torch.equal(images.target, noise)


@pytest.mark.parametrize("name", CHANGES)
def test_each_colour_change_does_something(name):
    noise = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    noise = noise // 2 + 20 * (torch.arange(3)[:, None, None] % 2).to(torch.uint8)
    known = PairAnnotations(torch.zeros(0, 2), torch.zeros(0, 2))
    pair, _ = PairColour(1.0, changes=[name])(ImagePair(noise, noise), known, np.random.default_rng(1))
    assert pair.source.shape == noise.shape and pair.source.dtype == torch.uint8
    assert not torch.equal(pair.source, noise)


def test_all_transforms_work_from_a_config_in_workers_and_repeat():
    import_components()
    dataset = build(dict(type="SyntheticPairs", length=4, images=8, size=64))
    names = ["PairColour", "RandomObjectCrop", "RandomPairFlip", "KeyOut", "RandomPairWarp", "PairSwap"]
    transforms = [build(dict(type=name)) for name in names] + [build(dict(type="PairResize", side=48))]
    batches = [list(train_loader(dataset, transforms, batch_size=2, seed=1, workers=workers)) for workers in (0, 1)]
    assert batches[0][0].source.images.shape == (2, 3, 48, 48)
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.source.images, other.source.images)
        for known, same in zip(one.annotations, other.annotations, strict=True):
            assert torch.equal(known.target_points, same.target_points)
    assert pickle.loads(pickle.dumps(transforms))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="RandomObjectCrop", probability=2), "probability: must be a number from 0 to 1"),
        (dict(type="KeyOut", images="target"), "images: must be a list"),
        (dict(type="KeyOut", size=[0.2, 0.1]), "size must be two numbers"),
        (dict(type="RandomPairWarp", bend=3), "bend: must be a number from 0 to 1"),
        (dict(type="PairColour", changes=["ToGrey"]), "did you mean 'ToGray'"),
        (dict(type="PairResize", side=0), "side: must be"),
    ],
)
def test_wrong_options_are_explained(config, message):
    import_components()
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_nothing_heavy_is_imported_before_it_is_used():
    code = (
        "import sys; import detkit.data.pairs.colour, detkit.data.pairs.warp, detkit.data.corruptions.transform;"
        "print({'cv2', 'albumentations', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert result.stdout.strip() == "set()"
