from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_matchers import TinyLayers, pair, tiny_cats

from detkit.correspondence.catspp import CATsPlusPlus
from detkit.correspondence.features.maps import ResNetLayers
from detkit.correspondence.features.timm_layers import TimmLayers
from detkit.correspondence.neighbours import NearestNeighbourMatcher
from detkit.engine.optim import build_optimizer
from detkit.registry import ConfigError
from detkit.structures import PairBatch


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def cats():
    return tiny_cats().eval()


@pytest.fixture
def neighbours():
    return NearestNeighbourMatcher(TinyLayers(), side=64, grid=8).eval()


def test_flow_lies_on_the_target_and_points_into_the_source(cats):
    source, target = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    flow = cats.flow(source, target)
    assert flow.shape == (2, 2, 4, 4)
    y, x = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    places = flow + torch.stack([x, y])
    assert (places >= -1e-4).all() and (places <= 3 + 1e-4).all()


@pytest.mark.parametrize("make", [tiny_cats, lambda: NearestNeighbourMatcher(TinyLayers(), side=64, grid=8)])
def test_images_of_any_size_and_kind_can_be_matched(make, tmp_path):
    model = make().eval()
    wide, grey = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8), np.full((50, 20), 90, np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    found = model.match(tmp_path / "wide.png", grey, [[0, 0], [90, 30], [45.5, 10]])
    assert found.points.shape == (3, 2) and found.confidence.shape == (3,)
    assert (found.points >= 0).all() and (found.points <= torch.tensor([20.0, 50.0])).all()
    assert (found.confidence > 0).all() and (found.confidence <= 1).all()
    assert model.warp(tmp_path / "wide.png", grey).shape == (3, 50, 20)
    assert len(model.match(wide, grey, [])) == 0


def test_points_outside_are_refused_with_their_numbers(cats):
    image = np.zeros((30, 90, 3), np.uint8)
    with pytest.raises(ValueError, match=r"outside its 90 x 30 pixels: 1 at \(91, 5\), 2 at \(3, -1\)"):
        cats.match(image, image, [[1, 1], [91, 5], [3, -1]])
    with pytest.raises(ValueError, match=r"0 at \(nan, 1\)"):
        cats.match(image, image, [[float("nan"), 1]])
    with pytest.raises(ValueError, match=r"expected \[n, 2\]"):
        cats.match(image, image, [[1, 2, 3]])
    cats.train()
    with pytest.raises(RuntimeError, match="eval mode"):
        cats.match(image, image, [[1, 1]])


def test_identical_images_match_themselves(neighbours):
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    centres = torch.tensor([[4.0, 4.0], [20.0, 60.0], [36.0, 12.0]])
    assert torch.equal(neighbours.match(image, image, centres).points, centres)
    flow = neighbours.dense_flow(image, image)
    assert not flow.vectors.any()
    difference = (neighbours.warp(image, image).int() - image.int()).abs()
    assert difference.max() <= 1


def test_a_uniform_image_has_a_defined_match(cats, neighbours):
    """All cells are alike: whatever is found is finite and inside, and without confidence."""
    grey = np.full((64, 64), 128, np.uint8)
    for model in (cats, neighbours):
        found = model.match(grey, grey, [[10, 10]])
        assert found.points.isfinite().all() and (found.points <= 64).all()
    assert neighbours.match(grey, grey, [[10, 10]]).confidence == pytest.approx(1 / 64, rel=1e-3)


def test_moved_content_is_found(neighbours):
    source = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    target = source.roll((8, 24), (1, 2))
    found = neighbours.match(source, target, [[12.0, 20.0]])
    assert found.points.tolist() == [[36.0, 28.0]]
    flow = neighbours.flow(*(neighbours._load(source, target)[1]))
    assert flow[0, :, 3, 4].tolist() == [-3.0, -1.0]


def test_training_gives_losses_and_evaluation_matches_in_stored_pixels():
    model = tiny_cats()
    batch = PairBatch.collate([pair(3), pair(5, (32, 48), (80, 40))])
    losses = model(batch)
    assert set(losses) == {"loss_epe"} and losses["loss_epe"] > 0
    losses["loss_epe"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    images, annotation = pair(4, (32, 48), (80, 40))
    small = PairBatch.collate([(images, annotation)])
    annotation.source_size, annotation.target_size = (320, 480), (800, 400)
    annotation.source_points *= 10
    with torch.no_grad():
        (found,) = model.eval()(small)
    direct = model.match(images.source, images.target, annotation.source_points / 10)
    assert torch.allclose(found.points, direct.points * 10, atol=1e-2)


def test_a_pair_without_common_points_costs_nothing():
    model = tiny_cats()
    alone, empty = pair(3), pair(0)
    both = model(PairBatch.collate([alone, empty]))["loss_epe"]
    assert torch.allclose(both, model(PairBatch.collate([alone]))["loss_epe"])
    loss = model(PairBatch.collate([empty]))["loss_epe"]
    loss.backward()
    assert loss == 0
    assert len(model.eval()(PairBatch.collate([empty]))[0]) == 0


def test_losses_of_micro_batches_add_up_to_that_of_one_batch():
    """Also where their pairs label different numbers of cells with different weights."""
    model = tiny_cats(temperature=0.1)
    pairs = [pair(n, weights=torch.rand(n)) for n in (1, 7, 3, 12)]
    gradients, losses = [], []
    for size in (4, 2):
        batches = [PairBatch.collate(pairs[i : i + size]) for i in range(0, 4, size)]
        total = torch.tensor(sum(map(model.count_objects, batches)))
        model.zero_grad()
        losses.append(0.0)
        for batch in batches:
            batch.num_objects = total
            loss = model(batch)["loss_epe"]
            loss.backward()
            losses[-1] += loss.item()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(model(PairBatch.collate(pairs))["loss_epe"].item(), rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_weights_of_points_count():
    model = tiny_cats()
    images, annotation = pair(2)
    annotation.target_points = torch.tensor([[8.0, 8.0], [56.0, 56.0]])
    annotation.source_points = annotation.target_points.flip(0)
    errors = {}
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        annotation.weights = torch.tensor(weights)
        errors[tuple(weights)] = model(PairBatch.collate([(images, annotation)]))["loss_epe"].item()
    assert min(errors.values()) < errors[0.5, 0.5] < max(errors.values())


def test_original_switch_trains_positions_and_cuts_points():
    model, official = tiny_cats().eval(), tiny_cats(official=True).eval()
    names = [name for name, _ in official.named_parameters()]
    assert {"x_positions", "y_positions"} <= set(names)
    assert not {"x_positions", "y_positions"} & {name for name, _ in model.named_parameters()}
    corr = torch.rand(1, 16, 16)
    points = torch.tensor([[[10.2, 20.9], [10.9, 20.1]]])
    cut, _ = official.transfer(corr, points)
    exact, _ = model.transfer(corr, points)
    assert torch.equal(cut[0, 0], cut[0, 1]) and not torch.equal(exact[0, 0], exact[0, 1])


def test_catspp_matches_and_learns():
    model = CATsPlusPlus(ResNetLayers(50, (7, 13, 14), trainable=True), side=64)
    assert (model.grid, model.levels) == (4, [1, 1, 1])
    loss = model(PairBatch.collate([pair(3)]))["loss_epe"]
    loss.backward()
    assert all(p.grad is not None for p in model.aggregator.parameters())
    found = model.eval().match(torch.zeros(3, 30, 40), torch.zeros(3, 20, 20), [[3, 4]])
    assert found.points.shape == (1, 2)
    with pytest.raises(ValueError, match="multiple of 16"):
        CATsPlusPlus(TinyLayers(), side=40)


def test_neighbours_have_nothing_to_train(neighbours):
    with pytest.raises(ConfigError, match="NearestNeighbourMatcher has no trainable parameters"):
        build_optimizer(neighbours, lr=1e-3, weight_decay=0.0)


def test_resnet_layers_are_before_the_last_activation():
    backbone = ResNetLayers(50, (0, 3, 4))
    assert backbone.num_channels == [64, 256, 512]
    assert len(backbone.body.layer2) == 1 and not len(backbone.body.layer3)
    assert not any(p.requires_grad for p in backbone.parameters())
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [x.shape[1:] for x in maps] == [(64, 16, 16), (256, 16, 16), (512, 8, 8)]
    assert (maps[1] < 0).any() and (maps[0] >= 0).all()
    assert torch.allclose(backbone.body.layer2[0].residual_sum(maps[1].relu()), maps[2])
    for layers in ((), (3, 3), (17,), (-1,)):
        with pytest.raises(ValueError, match=r"0\.\.16"):
            ResNetLayers(50, layers)


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    ("model", "layers", "arguments"),
    [
        ("resnet18", (1, 2), {}),
        ("vit_tiny_patch16_224", (1, 3), dict(model_args=dict(dynamic_img_size=True, depth=4))),
    ],
)
def test_layers_of_any_timm_model(model, layers, arguments):
    backbone = TimmLayers(model, layers, **arguments)
    matcher = NearestNeighbourMatcher(backbone, side=64, grid=4).eval()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert matcher.match(image, image, [[24.0, 40.0]]).points.tolist() == [[24.0, 40.0]]
    with pytest.raises(ValueError, match="does not have the layers"):
        TimmLayers(model, (99,), **arguments)
