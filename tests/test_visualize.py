import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.structures import Annotations, Detections, LabelMap
from detkit.visualize import class_color, draw_comparison, draw_detections, plot_curves

LABELS = LabelMap(("cat", "dog"), (3, 17))
GREY = np.full((120, 200, 3), 128, dtype=np.uint8)


def detections(boxes, scores=None, labels=None, masks=None, label_map=LABELS):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor(scores if scores is not None else [0.9] * len(boxes))
    labels = torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64)
    return Detections(boxes, scores, labels, masks, label_map)


def where_color(picture, color):
    """y and x of the pixels of one colour."""
    return np.nonzero((np.asarray(picture) == color).all(axis=2))


def test_box_is_outlined_in_the_colour_of_its_class():
    picture = draw_detections(GREY, detections([[50, 40, 150, 100]], labels=[1]))
    assert picture.size == (200, 120)
    pixels = np.asarray(picture)
    for x, y in [(50, 70), (150, 70), (120, 40), (120, 100)]:
        assert tuple(pixels[y, x]) == class_color(17)
    assert tuple(pixels[70, 100]) == (128, 128, 128)


@pytest.mark.parametrize(
    "box", [[0, 0, 30, 30], [180, 0, 199, 20], [190, 110, 199, 119], [-50, -50, 10, 300], [150, 115, 400, 300]]
)
def test_tags_stay_inside_the_image(box):
    color = class_color(3)
    inside = draw_detections(GREY, detections([[60, 60, 61, 61]]))
    whole_tag = len(where_color(inside, color)[0])
    ys, _ = where_color(draw_detections(GREY, detections([box])), color)
    assert len(ys) >= whole_tag - 20  # the small box itself is some of it


def test_masks_are_translucent():
    masks = torch.zeros(1, 120, 200, dtype=torch.bool)
    masks[0, 80:100, 20:60] = True
    pixels = np.asarray(draw_detections(GREY, detections([[20, 80, 60, 100]], masks=masks))).astype(int)
    color = np.array(class_color(3))
    inside = pixels[90, 40]
    assert ((inside - 128) * (color - 128) >= 0).all()
    assert (np.abs(inside - 128) < np.abs(color - 128)).all()
    assert tuple(pixels[110, 150]) == (128, 128, 128)


def test_masks_of_another_size_are_an_error():
    masks = torch.zeros(1, 60, 100, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"masks are \(60, 100\)"):
        draw_detections(GREY, detections([[0, 0, 9, 9]], masks=masks))


def test_the_best_detection_lies_on_top():
    boxes = [[50, 40, 150, 100]] * 2
    for labels in ([0, 1], [1, 0]):
        pixels = np.asarray(draw_detections(GREY, detections(boxes, [0.9, 0.4], labels)))
        assert tuple(pixels[70, 50]) == class_color(LABELS.category_ids[labels[0]])


def test_sources_and_empty_detections(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(GREY).save(path)
    tensor = torch.from_numpy(GREY).permute(2, 0, 1)
    for source in (path, Image.fromarray(GREY), GREY, tensor, tensor.float()):
        np.testing.assert_array_equal(np.asarray(draw_detections(source, detections([]))), GREY)


def test_drawing_does_not_change_the_source():
    image = Image.fromarray(GREY)
    draw_detections(image, detections([[10, 10, 90, 90]]))
    np.testing.assert_array_equal(np.asarray(image), GREY)


def test_odd_boxes_and_labels_without_names_are_drawn():
    flipped = detections([[90, 90, 10, 10], [20, 20, 20, 20]], labels=[0, 7], label_map=None)
    assert np.asarray(draw_detections(GREY, flipped)).shape == (120, 200, 3)


def test_comparison_shows_prediction_left_and_truth_right():
    truth = Annotations(torch.tensor([[50.0, 40.0, 150.0, 100.0]]), torch.tensor([1]))
    picture = draw_comparison(GREY, detections([[50, 40, 150, 100]], labels=[0]), truth, LABELS)
    assert picture.width >= 400
    assert picture.height > 120
    assert where_color(picture, class_color(3))[1].max() < picture.width / 2
    assert where_color(picture, class_color(17))[1].min() > picture.width / 2


def test_comparison_of_a_tiny_image_without_objects():
    truth = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    picture = draw_comparison(GREY[:16, :16], detections([]), truth, LABELS)
    assert picture.width > 100  # room for the captions


def test_colours_are_distinct_and_stable():
    colors = [class_color(i) for i in range(36)]
    assert len(set(colors)) == 36
    for a, b in itertools.pairwise(colors):
        assert math.dist(a, b) > 90
    assert class_color(5) == class_color(41)


def test_curves(tmp_path):
    path = tmp_path / "curves.png"
    rows = [{"step": step, "loss": 9 / step, "loss_ce": 2.0, "loss_ce_0": 1.0, "lr": 1e-4} for step in (1, 2, 3)]
    plot_curves([*rows, {"step": 3, "bbox/AP": 0.4, "bbox/AP50": 0.6, "bbox/APs": -1.0}], path)
    with Image.open(path) as picture:
        width, height = picture.size
    assert width > 2 * height
    plot_curves(rows, path)
    with Image.open(path) as picture:
        assert picture.width == width / 2


def test_curves_add_up_the_stages(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, label, **kwargs: drawn.update({label: (x, y)}))
    rows = [{"step": 5, "loss": 4.0, "loss_ce": 2.0, "loss_ce_0": 1.0}, {"step": 9, "bbox/AP": 0.4, "bbox/AP50": -1}]
    monkeypatch.setattr(Axes, "legend", lambda self, **kwargs: None)
    plot_curves(rows, tmp_path / "curves.png")
    assert drawn == {"loss": ((5,), (4.0,)), "loss_ce": ((5,), (3.0,)), "bbox/AP": ((9,), (0.4,))}


def test_nothing_to_plot(tmp_path):
    with pytest.raises(ValueError, match="no row"):
        plot_curves([{"step": 1, "lr": 0.1}], tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())
