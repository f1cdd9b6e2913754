import pytest
import torch
from blob_finder import BlobFinder, picture

from detkit.data.base import ImageDataset
from detkit.evaluation.coco import CocoEvaluator
from detkit.modeling.viewed import ViewedModel
from detkit.modeling.views import part_places
from detkit.runtime.evaluate import evaluate
from detkit.structures import Annotations, LabelMap

# A small one in the first part, one across the seam, one where parts overlap, one longer than a part, a tall one.
BOXES = [(4, 4, 10, 8), (40, 10, 70, 14), (50, 30, 58, 34), (20, 50, 180, 58), (190, 4, 194, 30)]


def boxes_of(found):
    return sorted(tuple(box) for box in found.boxes.round().int().tolist())


def test_parts_cover_the_image_and_overlap():
    places = part_places((64, 200), 64, 0.25)
    assert places.tolist() == [[0, 0, 64, 64], [45, 0, 109, 64], [91, 0, 155, 64], [136, 0, 200, 64]]
    for size in ((1024, 700), (65, 64), (30, 500)):
        places = part_places(size, 64, 0.2)
        seen = torch.zeros(size)
        for x1, y1, x2, y2 in places.astype(int):
            seen[y1:y2, x1:x2] += 1
        assert seen.min() > 0 and places[:, 2:].max(0).tolist() == [size[1], size[0]]
    assert part_places((50, 60), 64, 0.2).tolist() == [[0, 0, 60, 50]]


def test_slices_find_small_objects_and_double_none_at_the_seams():
    model, image = BlobFinder().eval(), picture(64, 200, *BOXES)
    (whole,) = model.predict(image)
    assert boxes_of(whole) != sorted(BOXES)  # too small for the input of the model
    (found,) = model.predict(image, slice=64, overlap=0.25, batch_size=3)
    assert len(found) == len(BOXES) and sorted(found.names()) == ["tall", *["thin"] * 4]
    exact = [box for box in boxes_of(found) if box in BOXES]
    assert len(exact) == 4  # the long one is found in the whole image, coarsely
    truth = {box: picture(64, 200, box)[0].bool() for box in BOXES}
    for box, mask in zip(found.boxes.round().int().tolist(), found.masks, strict=True):
        if tuple(box) in truth:
            assert torch.equal(mask, truth[tuple(box)])
    (long,) = (mask for box, mask in zip(found.boxes, found.masks, strict=True) if box[2] - box[0] > 100)
    common = (long & truth[BOXES[3]]).sum() / (long | truth[BOXES[3]]).sum()
    assert common > 0.5


def test_slices_of_a_small_image_are_the_image():
    model, image = BlobFinder().eval(), picture(50, 60, (4, 4, 30, 10))
    (plain,), (found,) = model.predict(image), model.predict(image, slice=64)
    assert torch.equal(plain.boxes, found.boxes) and len(model.batches) == 2


def test_augmented_copies_agree_on_boxes_scores_and_masks():
    model = BlobFinder(side=100).eval()
    image = picture(100, 100, (10, 20, 50, 40), (60, 50, 80, 90))
    (found,) = model.predict(image, tta=True)
    assert len(model.batches) == 4 and len({shape[2] for shape in model.batches}) == 3
    assert boxes_of(found) == [(10, 20, 50, 40), (60, 50, 80, 90)]
    torch.testing.assert_close(found.scores, torch.full((2,), 0.9))
    for box, mask in zip(found.boxes.round().int().tolist(), found.masks, strict=True):
        assert torch.equal(mask, picture(100, 100, box)[0].bool())


def test_slices_and_copies_together():
    (found,) = BlobFinder().eval().predict(picture(64, 200, *BOXES), slice=64, overlap=0.25, tta=True, classes="tall")
    assert boxes_of(found) == [BOXES[-1]] and found.names() == ["tall"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(slice=8), "slice must be the side of the parts in pixels, at least 32, got 8"),
        (dict(slice=640.0), "slice must be"),
        (dict(slice=64, overlap=1.5), r"overlap must be a share of slice in 0..0.9, got 1.5"),
        (dict(overlap=0.3), r"overlap=0.3 is for slices: give slice too"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        BlobFinder().eval().predict(picture(64, 200), **options)


class Scene(ImageDataset):
    label_map = LabelMap(("thin", "tall"), (1, 2))
    image_ids = (5,)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        boxes = torch.tensor(BOXES).float()
        labels = torch.tensor([0, 0, 0, 0, 1])
        return picture(64, 200, *BOXES), Annotations(boxes, labels, image_id=5, original_size=(64, 200))

    def coco(self):
        _, truth = self[0]
        entries = [
            dict(id=i, image_id=5, category_id=label + 1, bbox=[x1, y1, x2 - x1, y2 - y1], iscrowd=0)
            for i, ((x1, y1, x2, y2), label) in enumerate(zip(BOXES, truth.labels.tolist(), strict=True), 1)
        ]
        names = [dict(id=1, name="thin"), dict(id=2, name="tall")]
        return dict(images=[dict(id=5, height=64, width=200)], annotations=entries, categories=names)


def test_evaluation_with_slices_sees_the_full_image():
    scene, model = Scene(), BlobFinder()
    plain = evaluate(model, scene, CocoEvaluator(scene), progress=False)
    sliced = evaluate(ViewedModel(model, slice=64, overlap=0.25), scene, CocoEvaluator(scene), progress=False)
    assert sliced["bbox/AP"] > 0.8 > plain["bbox/AP"]
    with pytest.raises(ValueError, match="not for a Linear"):
        ViewedModel(torch.nn.Linear(1, 1), tta=True)
