"""The model as people use it: built from a config, trained, asked with and without prompts."""

import pytest
import torch
from small_pyramid import SmallPyramid

import detkit.pointseg.solov2  # noqa: F401  registers the model
from detkit.pointseg.candidates import ImagePredictions, point_candidates
from detkit.pointseg.grid import GridLevels
from detkit.pointseg.postprocess import SoloPostprocess
from detkit.registry import ConfigError, build, register
from detkit.structures import Annotations, Batch, Prompt, PromptedDetections

SMALL = dict(num_grids=(10, 8, 6, 4, 3), instance_channels=16, instance_convs=2, kernel_channels=16, mask_channels=16)
RULE = dict(shortest=64, longest=96)


@register
class TinyPyramid(SmallPyramid):
    def forward(self, images, mask):
        assert images.shape[2] % 32 == images.shape[3] % 32 == 0 and mask.shape == images.shape[:1] + images.shape[2:]
        return super().forward(images, mask)


def model(**options):
    torch.manual_seed(0)
    config = dict(type="SOLOv2", backbone=dict(type="TinyPyramid"), num_classes=3, input_rule=RULE)
    built = build(config | SMALL | options)
    with torch.no_grad():  # masks with some area everywhere
        for head in (built.instance_head.category, built.instance_head.kernel):
            head.weight.normal_(std=0.3)
    return built.eval()


def images(*sizes):
    torch.manual_seed(1)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]


def square(x, y, side, size=(48, 64)):
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, y : y + side, x : x + side] = True
    return Annotations(torch.tensor([[x, y, x + side, y + side]]).float(), torch.tensor([1]), mask)


NOTHING = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
EMPTY = Annotations(torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([2]), torch.zeros(1, 48, 64, dtype=torch.bool))


@pytest.mark.parametrize("annotations", [[square(5, 9, 30), NOTHING], [NOTHING, NOTHING], [EMPTY, NOTHING]])
def test_training_reaches_every_parameter(annotations):
    solo = model().train()
    losses = solo(Batch.collate(list(zip(images((48, 64), (40, 50)), annotations, strict=True))))
    assert set(losses) == {"loss_mask", "loss_class"} and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in solo.parameters())


def test_learns_one_square():
    torch.manual_seed(0)
    solo = model(scale_ranges=[[1, 1000]] * 5).train()
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    image[:, 9:39, 5:35] = 255
    batch = Batch.collate([(image, square(5, 9, 30))])
    optimizer = torch.optim.Adam(solo.parameters(), lr=5e-3)
    first = None
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(solo(batch).values())
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < 0.2 * first
    solo.input_rule = type(solo.input_rule)(48, 64, 1)
    found = solo.eval().predict(image, points=[[20, 24]], labels=[1])[0]
    wanted = batch.annotations[0].masks[0]
    assert (found.masks[0] & wanted).sum() / (found.masks[0] | wanted).sum() > 0.6


def test_evaluation_gives_detections_at_the_original_size():
    solo = model()
    found = solo.predict(images((50, 70), (120, 90)), batch_size=2, min_score=0)
    for one, size in zip(found, ((50, 70), (120, 90)), strict=True):
        assert not isinstance(one, PromptedDetections) and one.masks.shape[1:] == size
        assert (one.scores[:-1] >= one.scores[1:]).all() and one.label_map == solo.label_map
    assert sum(map(len, found)) > 0
    one = found[0]
    ys, xs = one.masks[0].nonzero(as_tuple=True)
    assert one.boxes[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    batch = Batch.collate([(images((50, 70))[0], NOTHING)])
    assert len(solo(batch)) == 1
    assert all(set(r) >= {"bbox", "segmentation", "score"} for r in one.to_coco(7))


@pytest.mark.parametrize("prompt", ["class", "point", "point_with_size"])
@pytest.mark.parametrize("nms", ["mask", "matrix"])
def test_every_prompt(prompt, nms):
    solo = model(postprocess=SoloPostprocess(nms=nms))
    labels, points, boxes = [0, 2], [[10.0, 12], [60, 30]], [[0.0, 0, 30, 30], [50, 20, 70, 40]]
    found = solo.predict(images((50, 70)), points=[points], labels=[labels], boxes=[boxes], prompt=prompt)[0]
    assert isinstance(found, PromptedDetections)
    assert set(found.labels.tolist()) <= set(labels)
    assert torch.equal(torch.tensor(labels)[found.owners], found.labels)
    torch.testing.assert_close(found.points, torch.tensor(points)[found.owners])


def test_known_classes_alone():
    solo = model()
    free = solo.predict(images((50, 70)), min_score=0)[0]
    known = solo.predict(images((50, 70)), labels=[[1]], prompt="class")[0]
    assert len(set(free.labels.tolist())) > 1 and set(known.labels.tolist()) == {1}
    assert known.points is None and (known.owners == -1).all()
    assert len(solo.predict(images((50, 70)), labels=[[]], prompt="class")[0]) == 0


def test_points_of_several_images_of_which_one_has_none():
    solo = model()
    points = [[[10, 12], [60, 30]], [], torch.tensor([[5.0, 5]])]
    labels = [[0, 2], [], torch.tensor([1])]
    together = solo.predict(images((50, 70), (50, 70), (80, 60)), 3, points=points, labels=labels)
    apart = solo.predict(images((50, 70), (50, 70), (80, 60)), 1, points=points, labels=labels)
    assert len(together[1]) == len(apart[1]) == 0 and together[1].masks.shape == (0, 50, 70)
    assert [set(d.owners.tolist()) for d in apart] == [{0, 1}, set(), {0}]
    assert together[2].masks.shape == (1, 80, 60)


def level_by_level(image, sides, size, point, label):
    """The best cell for a point, as the paper describes it, in plain loops; None without a mask."""
    best, chosen, first = 0.0, None, 0
    for side in sides:
        column, row = (min(int(at / length * side), side - 1) for at, length in zip(point, size, strict=True))
        cell, first = first + row * side + column, first + side * side
        mask = sum(k * f for k, f in zip(image.kernels[:, cell], image.features, strict=True)).sigmoid()
        inside = mask[mask > 0.5]
        value = float(inside.sum() / (len(inside) + 1e-8) * image.logits[label, cell].sigmoid())
        if value > best:
            best, chosen = value, cell
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_points_are_answered_on_the_level_that_plain_loops_choose(seed):
    random = torch.Generator().manual_seed(seed)
    grids, cells = GridLevels(sides=(6, 5, 4, 3, 2)), 36 + 25 + 16 + 9 + 4
    kernels = torch.randn(8, cells, generator=random)
    kernels[:, torch.rand(cells, generator=random) < 0.5] = -1.0  # no mask there
    features = torch.rand(8, 12, 16, generator=random)
    image = ImagePredictions(kernels, torch.randn(3, cells, generator=random), features)
    points = torch.rand(60, 2, generator=random) * torch.tensor([64.0, 48.0])
    labels = torch.randint(3, (60,), generator=random)
    expected: dict = {}
    for number, (point, label) in enumerate(zip(points.tolist(), labels.tolist(), strict=True)):
        cell = level_by_level(image, grids.sides, (64, 48), point, label)
        if cell is not None:
            expected.setdefault((cell, label), number)
    found = point_candidates(image, Prompt(labels, points), grids)
    entries = zip(found.cells.tolist(), found.labels.tolist(), strict=True)
    assert dict(zip(entries, found.owners.tolist(), strict=True)) == expected
    assert (found.scores == 1).all() and 10 < len(expected) < 60


@pytest.mark.parametrize("official", [False, True])
def test_points_on_the_border_and_two_in_one_cell(official):
    solo = model(official=official)
    points = [[0, 0], [70, 50], [0, 50], [35, 25], [35.1, 25.1], [35, 25]]
    found = solo.predict(images((50, 70))[0], points=points, labels=[0, 1, 2, 1, 1, 2])[0]
    assert 4 <= len(found) <= 5  # the fourth and fifth are one
    if not official:
        assert 4 not in found.owners.tolist()
        assert {0, 1, 2, 3, 5} >= set(found.owners.tolist())


def test_wrong_prompts_are_named():
    solo, image = model(), images((50, 70))
    for arguments, message in (
        (dict(prompt="clicks"), "unknown prompt 'clicks'"),
        (dict(prompt="none", labels=[[0]]), "uses no points"),
        (dict(points=[[[1, 1]]]), "needs points, labels; labels missing"),
        (dict(prompt="class", labels=[[0]], boxes=[[[0, 0, 9, 9]]]), "points missing"),
        (dict(prompt="point_with_size", points=[[[1, 1]]], labels=[[0]]), "boxes missing"),
        (dict(points=[[[1, 1]], []], labels=[[0], []]), "1 images but points for 2"),
        (dict(points=[[[1, 1]]], labels=[[3]]), r"image 0: labels must lie in 0\.\.2, got \[3\]"),
        (dict(points=[[[1, 1]]], labels=[[0.5]]), r"labels must be \[n\] integers"),
        (dict(points=[[[1, 1], [2, 2]]], labels=[[0]]), r"image 0: points must be \[1, 2\] for 1 labels"),
        (dict(points=[[[1, float("nan")]]], labels=[[0]]), "not all finite"),
        (dict(points=[[[71, 1]]], labels=[[0]]), r"image 0: 1 points lie outside its 70 x 50 pixels: 0 at \(71"),
    ):
        with pytest.raises(ValueError, match=message):
            solo.predict(image, **arguments)
    with pytest.raises(ValueError, match="batch_size"):
        solo.predict(image, 0, points=[[[1, 1]]], labels=[[0]])
    with pytest.raises(RuntimeError, match="eval mode"):
        solo.train().predict(image, points=[[[1, 1]]], labels=[[0]])


def test_wrong_configs_are_named():
    config = dict(type="SOLOv2", backbone=dict(type="TinyPyramid"), num_classes=3)
    for arguments, message in (
        (dict(num_grids=(3, 2)), "num_grids: must be a list of 5"),
        (dict(scale_ranges=[[1, 2]]), "scale_ranges: must be a list of 5"),
        (dict(postprocess=dict(type="SoloPostprocess", nms="soft")), "nms: must be "),
    ):
        with pytest.raises(ConfigError, match=message):
            build(config | arguments)


def test_many_candidates_are_measured_in_chunks():
    """All cells and classes pass; the chunks give what one chunk of everything gives."""
    solo = model(postprocess=SoloPostprocess(score_threshold=-1.0, pre_nms=40))
    outputs = solo.forward_heads(solo.preprocess([x.float() for x in images((50, 70))]))
    from detkit.pointseg import candidates as parts

    image = parts.split_images(outputs)[0]
    asked = parts.score_candidates(parts.peaks(outputs)[0], -1.0)
    chunked = solo.postprocess.measure(image, asked, solo.strides())
    whole, parts.CANDIDATES_AT_ONCE = parts.CANDIDATES_AT_ONCE, 10**6
    try:
        at_once = solo.postprocess.measure(image, asked, solo.strides())
    finally:
        parts.CANDIDATES_AT_ONCE = whole
    assert len(asked.cells) > 256 and len(chunked.scores) == 40
    torch.testing.assert_close(chunked.scores, at_once.scores)
