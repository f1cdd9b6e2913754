"""Point prompts of ViDT+: from a clicked point to the query that answers it."""

import pytest
import torch
from small_vidt import small_vidt

from detkit.structures import Annotations, LabelMap, Prompt, PromptedDetections
from detkit.vidt.masks import masks_to_vectors
from detkit.vidt.outputs import Stages
from detkit.vidt.prompts import answer_prompts

SIZE = (100, 200)
LABELS = LabelMap(("cat", "dog", "hen"), (3, 17, 21))


def stages(boxes, probabilities, masks=True):
    """Predictions for one image of `SIZE`: boxes in its pixels, filled by discs."""
    table = torch.tensor(boxes, dtype=torch.float32)
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2)
    relative = torch.cat([(table[:, :2] + table[:, 2:]) / 2, table[:, 2:] - table[:, :2]], dim=1) / scale
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    discs = torch.stack([disc(box, x, y) for box in table])
    vectors = masks_to_vectors([Annotations(table, torch.zeros(len(table)).long(), discs)], [SIZE], 256)
    logits = torch.tensor(probabilities).logit()
    return Stages(logits[None, None], relative[None, None], vectors=vectors[None] if masks else None)


def disc(box, x, y):
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 < 1


def ask(found, points, labels, prompt="point", boxes=None):
    boxes = None if boxes is None else torch.tensor(boxes, dtype=torch.float32)
    known = Prompt(torch.tensor(labels).long(), torch.tensor(points, dtype=torch.float32).view(-1, 2), boxes)
    return answer_prompts(found, prompt, [known], [SIZE], LABELS)[0]


LEFT, RIGHT, SMALL = [10, 10, 90, 90], [110, 10, 190, 90], [40, 40, 60, 60]
THREE = stages([LEFT, RIGHT, SMALL], [[0.9, 0.2, 0.1], [0.8, 0.3, 0.1], [0.5, 0.6, 0.1]])


def test_the_surest_query_that_covers_the_point_answers():
    found = ask(THREE, [[150, 50], [50, 20]], [0, 0])
    assert isinstance(found, PromptedDetections) and found.label_map == LABELS
    assert found.owners.tolist() == [1, 0] and found.points.tolist() == [[50, 20], [150, 50]]
    torch.testing.assert_close(found.boxes, torch.tensor([LEFT, RIGHT]).float())
    assert found.masks.shape == (2, *SIZE) and found.masks[0, 20, 50] and found.masks[1, 50, 150]
    assert 0.45 < found.scores[0] < 0.9 and (found.scores[:-1] >= found.scores[1:]).all()
    assert found.names() == ["cat", "cat"]


def test_the_class_decides_between_masks_that_cover_the_point():
    assert ask(THREE, [[50, 50]], [0]).boxes[0].tolist() == pytest.approx(LEFT, abs=1e-3)
    assert ask(THREE, [[50, 50]], [1]).boxes[0].tolist() == pytest.approx(SMALL, abs=1e-3)


def test_the_given_size_decides_too():
    boxes = [[38, 38, 62, 62]]
    found = ask(THREE, [[50, 50]], [0], "point_with_size", boxes)
    assert found.boxes[0].tolist() == pytest.approx(SMALL, abs=1e-3)
    assert float(found.scores[0]) < 0.5 * 20**2 / 24**2 + 1e-4
    assert len(ask(THREE, [[50, 50]], [0], "point_with_size", [[190, 0, 200, 10]])) == 0


def test_points_that_nothing_covers_have_no_answer():
    found = ask(THREE, [[100, 50], [12, 12], [50, 30]], [0, 0, 0])  # between, in a corner of the box, on the disc
    assert found.owners.tolist() == [2] and len(found.masks) == 1


def test_a_query_answers_one_point_of_a_class():
    """The second click on an object gets the next best mask there, of points without another the better stays."""
    found = ask(THREE, [[50, 45], [52, 52]], [0, 0])
    assert sorted(found.owners.tolist()) == [0, 1]
    assert sorted(box[0] for box in found.boxes.tolist()) == pytest.approx([10, 40], abs=1e-3)
    assert len(ask(THREE, [[150, 50], [155, 50], [145, 50]], [0, 0, 0])) == 1
    assert len(ask(THREE, [[150, 50], [155, 50]], [0, 1])) == 2  # two classes may share a query


def test_the_whole_handout_is_best():
    """Only the large mask covers the second point, so the first takes the small one though it scores less."""
    found = ask(THREE, [[50, 50], [50, 20]], [0, 0])
    assert dict(zip(found.owners.tolist(), [b[0] for b in found.boxes.tolist()], strict=True)) == pytest.approx(
        {0: 40, 1: 10}, abs=1e-3
    )


def test_the_answer_always_has_the_pixel_of_its_point():
    torch.manual_seed(0)
    model = small_vidt(mask_vectors=20).eval()
    image = torch.randint(256, (3, 70, 90), dtype=torch.uint8)
    points = torch.rand(60, 2) * torch.tensor([90.0, 70.0])
    points[:2] = torch.tensor([[0.0, 0.0], [90.0, 70.0]])
    labels = torch.arange(60) % 3
    found = model.predict(image, points=points, labels=labels)[0]
    assert 0 < len(found) <= 7 * 3 and found.masks.shape[1:] == (70, 90)
    x, y = found.points.floor().long().minimum(torch.tensor([89, 69])).T
    assert found.masks[torch.arange(len(found)), y, x].all()
    assert torch.equal(found.labels, labels[found.owners]) and torch.equal(found.points, points[found.owners])
    assert len(set(found.owners.tolist())) == len(found)


def test_without_masks_boxes_answer():
    boxes_only = stages([LEFT, SMALL], [[0.9, 0.2, 0.1], [0.5, 0.6, 0.1]], masks=False)
    found = ask(boxes_only, [[12, 12], [95, 50]], [0, 0])
    assert found.owners.tolist() == [0] and found.masks is None and found.scores.tolist() == pytest.approx([0.9])


def test_known_classes():
    plain = answer_prompts(THREE, "class", [Prompt(torch.tensor([1]))], [SIZE], LABELS)[0]
    assert plain.labels.tolist() == [1, 1, 1] and plain.points is None and plain.owners.tolist() == [-1] * 3
    assert plain.scores.tolist() == pytest.approx([0.6, 0.3, 0.2])
    boxes = [[38, 38, 62, 62], [5, 5, 95, 95], [0, 0, 9, 9]]
    found = ask(THREE, [[50, 50], [50, 51], [5, 5]], [0, 0, 0], "class", boxes)
    assert found.owners.tolist() == [1, 0] and found.scores.tolist() == pytest.approx([0.9, 0.5])
    same = ask(THREE, [[50, 50], [50, 50]], [0, 0], "class", [boxes[0]] * 2)
    assert same.owners.tolist() == [0, 0]


@pytest.mark.parametrize("prompt", ["class", "point", "point_with_size"])
@pytest.mark.parametrize("options", [{}, dict(mask_vectors=20), dict(mask_vectors=20, proposals=True)])
def test_several_images_of_which_one_has_no_objects(prompt, options):
    model = small_vidt(**options).eval()
    torch.manual_seed(1)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in ((64, 80), (50, 70), (90, 60))]
    points, labels = [[[40, 32], [20, 20]], [], torch.tensor([[30.0, 45]])], [[0, 2], [], torch.tensor([1])]
    boxes = [[[0, 0, 80, 64], [10, 10, 30, 30]], [], [[0, 0, 60, 90]]]
    given = dict(points=points, labels=labels, boxes=boxes, prompt=prompt)
    together, apart = model.predict(images, 3, **given), model.predict(images, **given)
    assert len(together[1]) == len(apart[1]) == 0
    for one, other, (_, h, w) in zip(together, apart, [image.shape for image in images], strict=True):
        assert set(one.owners.tolist()) == set(other.owners.tolist())
        assert (one.masks is None) == (not options) and (one.masks is None or one.masks.shape[1:] == (h, w))


def test_wrong_prompts_are_named():
    model, image = small_vidt(mask_vectors=20).eval(), torch.zeros(3, 64, 80)
    for arguments, message in (
        (dict(prompt="clicks"), "unknown prompt 'clicks'"),
        (dict(points=[[1, 1]]), "labels missing"),
        (dict(points=[[1, 1]], labels=[3]), r"labels must lie in 0\.\.2"),
        (dict(points=[[81, 1]], labels=[0]), r"1 points lie outside its 80 x 64 pixels: 0 at \(81"),
        (dict(points=[[1, 1]], labels=[0], prompt="point_with_size"), "boxes missing"),
    ):
        with pytest.raises(ValueError, match=message):
            model.predict(image, **arguments)


def test_results_name_the_points_they_answer():
    found = ask(THREE, [[150, 50], [100, 50], [50.126, 20]], [0, 0, 1])
    results = found.to_coco(7, annotation_ids=[70, 71, 72])
    assert [(r["annotation_id"], r["point"], r["category_id"]) for r in results] == [
        (70, [150, 50], 3),
        (72, [50.13, 20], 17),
    ]
    assert all(r["image_id"] == 7 and "segmentation" in r for r in results)
    assert "annotation_id" not in found.to_coco(7)[0] and len(found[:1].to_coco(7)) == 1
