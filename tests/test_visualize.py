import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.structures import Annotations, Detections, LabelMap
from detkit.visualize import (
    class_color,
    contact_sheet,
    draw_comparison,
    draw_detections,
    draw_matches,
    draw_points,
    plot_curves,
)
from detkit.visualize.fonts import NO_CHARACTER, font_with
from detkit.visualize.matches import RIGHT, WRONG

LABELS = LabelMap(("cat", "dog"), (3, 17))
GREY = np.full((120, 200, 3), 128, dtype=np.uint8)


def detections(boxes, scores=None, labels=None, masks=None, label_map=LABELS):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor(scores if scores is not None else [0.9] * len(boxes))
    labels = torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64)
    return Detections(boxes, scores, labels, masks, label_map)


def compare(image, found, annotations):
    truth = Detections.of_annotations(annotations, LABELS)
    return draw_comparison(image, found, truth, annotations.points)


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
    for source in (path, Image.fromarray(GREY), GREY, tensor, tensor / 255):
        np.testing.assert_array_equal(np.asarray(draw_detections(source, detections([]))), GREY)


@pytest.mark.parametrize("name", ["кот", "γάτα", "chat noir", "\U0010fffe", "a\U0010fffe"])
def test_names_in_any_script_are_drawn_or_their_ids(name):
    def draw(name):
        return np.asarray(draw_detections(GREY, detections([[40, 60, 90, 100]], label_map=LabelMap((name,), (3,)))))

    assert np.array_equal(draw(name), draw("id 3")) == ("\U0010fffe" in name)


def test_no_character_of_a_name_is_an_empty_box():
    font = font_with("犬", 20)
    assert font is None or bytes(font.getmask("犬")) != bytes(font.getmask(NO_CHARACTER))
    assert font_with("cat", 20).getname() == font_with("", 20).getname()


def test_drawing_does_not_change_the_source():
    image = Image.fromarray(GREY)
    draw_detections(image, detections([[10, 10, 90, 90]]))
    np.testing.assert_array_equal(np.asarray(image), GREY)


def test_odd_boxes_and_labels_without_names_are_drawn():
    flipped = detections([[90, 90, 10, 10], [20, 20, 20, 20]], labels=[0, 7], label_map=None)
    assert np.asarray(draw_detections(GREY, flipped)).shape == (120, 200, 3)


def test_comparison_shows_prediction_left_and_truth_right():
    truth = Annotations(torch.tensor([[50.0, 40.0, 150.0, 100.0]]), torch.tensor([1]))
    picture = draw_comparison(
        GREY, detections([[50, 40, 150, 100]], labels=[0]), Detections.of_annotations(truth, LABELS), truth.points
    )
    assert picture.width >= 400
    assert picture.height > 120
    assert where_color(picture, class_color(3))[1].max() < picture.width / 2
    assert where_color(picture, class_color(17))[1].min() > picture.width / 2


def test_comparison_of_a_tiny_image_without_objects():
    truth = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    picture = compare(GREY[:16, :16], detections([]), truth)
    assert picture.width > 100  # room for the captions


def test_comparison_shows_the_points_of_the_truth():
    truth = Annotations(
        torch.tensor([[50.0, 40.0, 150.0, 100.0]]), torch.tensor([1]), points=torch.tensor([[90.0, 70]])
    )
    picture = compare(GREY, detections([]), truth)
    pixels, top = np.asarray(picture), picture.height - 240
    assert tuple(pixels[top + 140, picture.width - 400 + 180]) == class_color(17)


@pytest.mark.parametrize("size", [(40, 30), (200, 120), (900, 600)])
def test_points_have_the_colour_of_their_class_and_stand_out(size):
    image = np.full((size[1], size[0], 3), class_color(3), dtype=np.uint8)  # on their own colour
    points = [[size[0] / 2, size[1] / 2], [size[0], size[1]]]
    picture = draw_points(image, points, [0, 1], category_ids=LABELS.category_ids)
    pixels = np.asarray(picture)
    assert picture.size == size
    assert tuple(pixels[size[1] // 2, size[0] // 2]) == class_color(3)
    assert tuple(pixels[-1, -1]) == class_color(17)
    white = (pixels > 200).all(axis=2).sum()
    assert white > 10


def test_points_without_an_answer_are_crosses():
    points = [[60, 60], [140, 60]]
    pixels = np.asarray(draw_points(GREY, points, [0, 0], answered=[True, False]))
    dot, cross = ((pixels[50:71, x - 10 : x + 11] == class_color(0)).all(axis=2) for x in (60, 140))
    assert dot[10, 12] and not cross[10, 13] and cross[10, 10] and cross[8, 8] and cross[12, 7]


def test_masks_and_points_of_a_small_image_are_drawn_large():
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[0, 8:24, 8:24] = True  # the second point has none
    picture = draw_points(GREY[:32, :48], [[16, 16], [40, 16]], masks=masks, side=360)
    assert picture.size == (384, 256)
    pixels = np.asarray(picture)
    assert tuple(pixels[64, 100]) == class_color(0) and tuple(pixels[100, 64]) == class_color(0)  # the outline
    assert tuple(pixels[80, 80]) not in ((128, 128, 128), class_color(0)) and tuple(pixels[10, 10]) == (128, 128, 128)
    assert tuple(pixels[128, 320]) == class_color(1)


def test_wrong_points_are_named():
    with pytest.raises(ValueError, match="2 points but 1 labels"):
        draw_points(GREY, [[1, 1], [2, 2]], [0])
    with pytest.raises(ValueError, match="1 points but 2 masks"):
        draw_points(GREY, [[1, 1]], masks=torch.zeros(2, 120, 200, dtype=torch.bool))
    assert np.array_equal(np.asarray(draw_points(GREY, [])), GREY)


@pytest.mark.parametrize("sizes", [((64, 64), (64, 64)), ((120, 200), (60, 500)), ((700, 300), (20, 30))])
def test_matches_lie_where_their_points_are(sizes):
    source, target = (np.full((*size, 3), 128, dtype=np.uint8) for size in sizes)
    ends = [[[0.5 * w, 0.25 * h], [0.2 * w, 0.75 * h]] for h, w in sizes]
    picture = draw_matches(source, target, *ends, confidence=[1.0, 0.5])
    assert picture.width > picture.height
    for number in (0, 1):
        columns = where_color(picture, class_color(number))[1]
        assert np.ptp(columns) > 0.3 * picture.width
    assert picture.height <= 640 and picture.height >= 180


def test_right_matches_are_green_and_wrong_ones_red():
    found, truth = [[10, 10], [50, 30], [30, 50]], [[12, 10], [20, 30], [30, 50]]
    picture = draw_matches(GREY, GREY[:64, :64], found, found, truth=truth)
    right, wrong = (len(where_color(picture, color)[0]) for color in (RIGHT, WRONG))
    assert right > wrong > 50
    strict = draw_matches(GREY, GREY[:64, :64], found, found, truth=truth, threshold=1.0)
    assert len(where_color(strict, WRONG)[0]) > wrong
    assert len(where_color(draw_matches(GREY, GREY, found, found), RIGHT)[0]) == 0


def test_the_surest_match_is_the_strongest_line():
    source, target = [[100, 20], [100, 100]], [[100, 20], [100, 100]]
    pixels = np.asarray(draw_matches(GREY, GREY, source, target, confidence=[0.9, 0.1])).astype(int)
    height, middle = pixels.shape[0], 420
    rows = [round(height * y / 120) for y in (20, 100)]
    strength = [np.abs(pixels[row - 1 : row + 2, middle] - 128).max() for row in rows]
    assert strength[0] > 1.5 * strength[1] > 0


def test_wrong_matches_are_named():
    with pytest.raises(ValueError, match="1 source points but 2 of target"):
        draw_matches(GREY, GREY, [[1, 1]], [[1, 1], [2, 2]])
    with pytest.raises(ValueError, match="1 source points but 2 of confidence"):
        draw_matches(GREY, GREY, [[1, 1]], [[1, 1]], confidence=[1, 0.5])
    assert draw_matches(GREY, GREY, [], [], confidence=[], truth=[]).width > 400


def test_contact_sheet_has_a_column_for_each_title():
    red, wide, tall = (Image.new("RGB", size, "red") for size in ((64, 64), (800, 200), (30, 300)))
    sheet = contact_sheet([[red, wide], [tall, None]], ["Points", "Rough masks"], height=100)
    assert sheet.width == 100 + 6 + 300 and sheet.height > 206
    left, right = (where_color(sheet.crop((*x, sheet.height)), (255, 0, 0)) for x in ((0, 0, 100), (106, 0, 406)))
    assert len(left[0]) == 100 * 100 + 10 * 100 and len(right[0]) == 300 * 75
    kept = contact_sheet([[red], [tall]], ["a title that is wider than its pictures"], height=None)
    assert len(where_color(kept, (255, 0, 0))[0]) == 64 * 64 + 30 * 300
    assert contact_sheet([], ["Nothing"]).width > 20
    with pytest.raises(ValueError, match="row 1 has 1 pictures for 2 titles: a, b"):
        contact_sheet([[red, red], [red]], ["a", "b"])


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
    plot_curves([*rows, {"step": 3, "PCK@0.1": 0.4, "PCK@0.1/class": 0.3}, {"step": 3, "IoU": 0.5}], path)
    with Image.open(path) as picture:
        assert picture.width == width


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
