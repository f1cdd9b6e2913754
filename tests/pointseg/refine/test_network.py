"""MaskRefineNet's inputs, loss and schedule against the official code."""

import numpy as np
import pytest
import torch
from pointseg_golden import Golden
from rough_data import scenes

from detkit.backbones.pretrained import create_timm_model
from detkit.pointseg.geometry import centres_of_mass, extents
from detkit.pointseg.refine.crops import CropDraw, centre_spots, crop_box, network_input, normalize, training_crop
from detkit.pointseg.refine.inference import cut, point_pixels, refine_masks
from detkit.pointseg.refine.losses import match_masks, refine_loss
from detkit.pointseg.refine.network import MaskRefineNet
from detkit.pointseg.schedules import refine_cosine, solo_steps


def test_centre_spots():
    golden = Golden("07b_center_map")
    spot = centre_spots(torch.tensor([[30, 30]]), (61, 61))[0]
    np.testing.assert_allclose(spot[11:50, 11:50], golden["kernel"], atol=1e-6)
    assert spot.count_nonzero() == 39 * 39
    for i, case in enumerate(golden.meta["config"]["cases"]):
        points = torch.tensor(case["points_x_y_plane"])
        each = centre_spots(points[:, :2], tuple(case["hw"]))
        planes = [each[points[:, 2] == plane].amax(0) for plane in case["planes"]]
        np.testing.assert_allclose(torch.stack(planes), golden[f"case{i}_planes"], atol=1e-6)


@pytest.mark.parametrize("name", ["07c_train_sample", "07f_label_matching"])
def test_matching(name):
    golden = Golden(name)
    pairs, points = [], []
    for image_id, scene in scenes(golden).items():
        centres = centres_of_mass(scene.true)[0]
        readable = torch.tensor(scene.readable, dtype=torch.int64)
        found = match_masks(scene.points, scene.labels, centres[readable], scene.true_labels[readable], official=True)
        for rough, true in found.tolist():
            number = scene.readable[true] if true >= 0 else -1
            pairs.append([image_id, rough, number, int(scene.labels[rough])])
            points.append(centres[number].flip(0).tolist() if true >= 0 else [0, 0])
    np.testing.assert_array_equal(pairs, golden["match"])
    np.testing.assert_allclose(points, golden["match_point_yx"], rtol=1e-6)


def test_matching_leaves_out_what_has_no_pixels_or_no_class():
    points, labels = torch.tensor([[1.0, 1], [2, 2], [3, 3]]), torch.tensor([0, 1, 2])
    centres, true_labels = torch.tensor([[9.0, 9], [torch.nan, torch.nan]]), torch.tensor([0, 1])
    assert match_masks(points, labels, centres, true_labels).tolist() == [[0, 0]]
    assert match_masks(points, labels, centres, true_labels, official=True).tolist() == [[0, 0], [1, -1]]
    assert match_masks(points, labels, centres[:0], true_labels[:0]).shape == (0, 2)
    assert match_masks(points[:0], labels[:0], centres, true_labels).shape == (0, 2)


@pytest.mark.parametrize("sample", range(10))
def test_training_crops(sample):
    golden = Golden("07c_train_sample")
    image_id, rough, true, label, *box = golden["samples"][sample].tolist()
    scale, pixels, flip = golden["draws"][sample].tolist()
    scene, draw = scenes(golden)[image_id], CropDraw(scale, pixels, flip < 0.5)
    centre = centres_of_mass(scene.true[true : true + 1])[0][0]
    size = tuple(scene.image.shape[1:])
    extent = tuple(extents(scene.rough[rough : rough + 1])[0].tolist())
    assert list(crop_box(extent, tuple(centre.tolist()), scale, size)) == box

    arguments = scene.image, scene.rough[rough], scene.true[true], label, draw
    crop = training_crop(*arguments, official=True)
    np.testing.assert_array_equal(crop.plane, golden[f"s{sample}_center_plane"][0])
    if crop.point:
        np.testing.assert_array_equal(crop.point, golden[f"s{sample}_center_xy"])
    for name, mask in (("mask", crop.rough), ("target", crop.true)):
        assert (mask.numpy() == golden.mask(f"s{sample}_{name}")).mean() >= 0.999
    image = normalize(crop.image)
    indices = [golden[f"s{sample}_image.idx{axis}"] for axis in range(3)]
    np.testing.assert_allclose(image.numpy()[np.ix_(*indices)], golden[f"s{sample}_image"], atol=2e-2)

    ours = training_crop(*arguments)
    assert ours.plane in (-1, label + 1)
    if label > 0:
        assert torch.equal(ours.rough, crop.rough) and torch.equal(ours.true, crop.true)
    else:
        assert not crop.true.any() and ours.true.any()


@pytest.fixture(scope="module")
def inference():
    golden = Golden("07d_infer_sample")
    return golden, scenes(golden)


def test_inference_crops(inference):
    golden, data = inference
    rows = iter(golden["rows"].tolist())
    for scene in data.values():
        for i, extent in enumerate(extents(scene.rough).tolist()):
            row = next(rows)
            point, size = scene.points[i], tuple(scene.image.shape[1:])
            box = crop_box(tuple(extent), tuple(point.tolist()), 2.0, size)
            image, mask = cut(scene.image, scene.rough[i : i + 1], [box], 256)
            pixel = point_pixels(point[None], [box], 256)[0].tolist()
            assert row[2:6] == [extent[0], extent[1], extent[2] - extent[0], extent[3] - extent[1]]
            assert row[6:10] == list(box)
            assert row[10:13] == [box[3] - box[1] + 1, box[2] - box[0] + 1, int(scene.labels[i]) + 1]
            inside = min(pixel) >= 0 and max(pixel) < 256
            assert row[13:] == (pixel if inside else [-1, -1])
            number = scene.first_row + i
            golden.check(f"p{number}_image", normalize(image)[0])
            assert (mask[0].bool().numpy() == golden.mask(f"p{number}_mask")).mean() >= 0.999


def stub(x):
    """A network whose output follows from its input by a formula."""
    object_ = 3 * x[:, -1] + 2 * x[:, 3:-1].amax(1) - 2.5 + 0.4 * x[:, :3].mean(1)
    return torch.stack([torch.zeros_like(object_), object_], dim=1)


def test_refined_masks(inference):
    golden, data = inference
    rows = iter(golden["refined"].tolist())
    for scene in data.values():
        refined = refine_masks(stub, scene.image, scene.rough, scene.points, scene.labels, 80, batch_size=3)
        for i, extent in enumerate(extents(refined).tolist()):
            row = next(rows)
            assert row[2:6] == [extent[0], extent[1], extent[2] - extent[0], extent[3] - extent[1]]
            assert abs(int(refined[i].sum()) - row[6]) <= 3
            assert (refined[i].numpy() == golden.mask(f"r{scene.first_row + i}_refined")).mean() >= 0.999


def test_rough_masks_that_cannot_be_refined_stay(inference):
    scene = next(iter(inference[1].values()))
    rough = scene.rough.clone()
    rough[0] = False

    def finds_nothing(x):
        return torch.stack([torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], dim=1)

    for network in (stub, finds_nothing):
        refined = refine_masks(network, scene.image, rough, scene.points, scene.labels, 80)
        assert not refined[0].any()
    assert torch.equal(refined, rough)
    assert len(refine_masks(stub, scene.image, rough[:0], scene.points[:0], scene.labels[:0], 80)) == 0
    with pytest.raises(ValueError, match="do not fit"):
        refine_masks(stub, scene.image, rough, scene.points[:1], scene.labels, 80)


@pytest.mark.parametrize("point", [(50.0, 40.0), (49.0, 39.0), (49.9, 39.2), (0.0, 0.0)])
def test_a_point_on_the_border_is_in_the_last_pixel_of_its_crop(point):
    mask, seen = torch.zeros(1, 40, 50, dtype=torch.bool), []
    mask[0, 30:, 40:] = True

    def network(x):
        seen.append(x)
        return x.new_zeros(len(x), 2, *x.shape[2:])

    image = torch.zeros(3, 40, 50, dtype=torch.uint8)
    refine_masks(network, image, mask, torch.tensor([point]), torch.tensor([1]), 3, size=32)
    planes = seen[0][0, 3:-1].amax((1, 2))
    assert planes.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("kind", ["two", "one"])
def test_the_official_loss(kind):
    golden = Golden("07e_dice_loss")
    logits = golden.input(f"logits_{kind}").requires_grad_()
    loss = refine_loss(logits, golden.tensor(f"target_{kind}"), official=True)
    loss.backward()
    golden.check(f"loss_{kind}", loss)
    golden.check(f"grad_{kind}", logits.grad)


def test_loss_per_crop():
    target = torch.zeros(2, 8, 8, dtype=torch.uint8)
    target[0, 2:5, 2:5] = 1
    right = torch.stack([1.0 - target, target.float()], dim=1) * 40 - 20
    assert refine_loss(right, target) < 0.3  # an empty target has no Dice to win
    assert refine_loss(right[:1], target[:1]) < 1e-4
    assert refine_loss(-right[:1], target[:1]) > 0.999


def test_schedules():
    golden = Golden("07g_lr_schedule")
    factor = refine_cosine(lr=1e-4, epochs=2, steps_per_epoch=100, warmup_steps=20)
    np.testing.assert_allclose([1e-4 * factor(step) for step in range(200)], golden["lr"], rtol=1e-9)
    with pytest.raises(ValueError, match="below the 200 steps"):
        refine_cosine(lr=1e-4, epochs=2, steps_per_epoch=100, warmup_steps=200)
    steps = solo_steps(lr=0.05, epochs=1, steps_per_epoch=10001, drop_steps=(5000, 8000), warmup_steps=3000)
    expected = [0.01, 0.505, 1, 1, 0.1, 0.01]
    np.testing.assert_allclose([steps(i) for i in (0, 1500, 3000, 4999, 5000, 8000)], expected)
    with pytest.raises(ValueError, match="ascend"):
        solo_steps(lr=0.05, epochs=1, steps_per_epoch=10, drop_steps=(5, 3))


def bar(row, width=40):
    mask = torch.zeros(30, width, dtype=torch.bool)
    mask[row, 4:30] = True
    return mask


def test_one_pixel_wide_masks_and_masks_at_the_border():
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8)
    for rough, true in ((bar(0), bar(29)), (bar(29), bar(0)), (bar(12), bar(12))):
        for rotate in (False, True):
            views = [x.transpose(-1, -2) if rotate else x for x in (image, rough, true)]
            crop = training_crop(*views, 2, CropDraw.random(np.random.default_rng(0)), size=32)
            assert crop.image.shape == (3, 32, 32) and crop.rough.shape == crop.true.shape == (32, 32)
    with pytest.raises(ValueError, match="the rough mask is empty"):
        training_crop(image, torch.zeros_like(bar(0)), bar(0), 0, CropDraw(1.5, 1.0, False))


def test_training_a_small_net_reaches_every_parameter():
    torch.manual_seed(0)
    network = MaskRefineNet(2, encoder="test_resnet", width=16)
    images, masks = torch.rand(2, 3, 64, 64) * 255, torch.rand(2, 64, 64) > 0.5
    points, planes = torch.tensor([[5, 9], [70, 3]]), torch.tensor([1, -1])
    x = network_input(normalize(images), masks, points, planes, 2)
    assert x.shape == (2, 7, 64, 64) and x[0, 4, 9, 5] == 1 and not x[1, 3:6].any()
    logits = network(x)
    assert logits.shape == (2, 2, 64, 64)
    refine_loss(logits, masks).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_encoders_that_do_not_fit():
    with pytest.raises(ValueError, match="needed are"):
        MaskRefineNet(3, encoder="test_convnext")
    with pytest.raises(ValueError, match=r"weights.pth does not exist"):
        MaskRefineNet(3, encoder="test_resnet", pretrained="weights.pth")
    with pytest.raises(ValueError, match="no pretrained weights for the plain encoder"):
        MaskRefineNet(3, encoder="plain", pretrained=True)


def test_weights_of_a_timm_encoder_from_a_file(tmp_path):
    published = create_timm_model("test_resnet")
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    network = MaskRefineNet(2, encoder="test_resnet", width=16, pretrained=str(tmp_path / "weights.pth"))
    loaded = network.encoder.model.state_dict()
    assert torch.equal(loaded["layer1.0.conv1.weight"], published.state_dict()["layer1.0.conv1.weight"])
