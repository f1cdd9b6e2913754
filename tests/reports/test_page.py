from html.parser import HTMLParser

import pytest
from found import evaluated, random_scenes
from PIL import Image

from detkit.reports import page
from detkit.reports.findings import find
from detkit.reports.parts.pictures import as_jpeg

ODD = ("<script>alert(1)</script>", "_$x$", 'a "quoted" & long name ' + 60 * "x")
BOX = [0, 0, 20, 20]


class Elements(HTMLParser):
    """The elements of a page, the addresses in it, and the text of its table cells and chart labels."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.addresses, self.texts = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]

    def handle_data(self, data):
        self.texts.append(data)


def write(found):
    return page.write_page(found, [find(found, kind) for kind in found.evaluator.iou_types])


@pytest.fixture(scope="module")
def content():
    return write(evaluated(*random_scenes(12), ODD, with_masks=True))


def test_names_from_the_data_do_nothing(content):
    elements = Elements(content)
    assert "script" not in elements.tags and "<script" not in content
    for name in ODD:
        assert elements.texts.count(name) >= 8, "in each table and chart"


def test_a_page_needs_nothing_from_elsewhere(content):
    elements = Elements(content)
    assert len(elements.addresses) > 10
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in elements.addresses)
    assert "http" not in content and "@import" not in content and len(content) < 5_000_000


def test_boxes_and_masks_have_all_sections(content):
    titles = ["Average precision", "Precision and recall", "Thresholds", "Confusion", "Errors by kind", "Calibration"]
    titles += ["Recall by size", "Worst images", "Data", "Training", "Config and versions"]
    texts = Elements(content).texts
    for title in titles:
        assert texts.count(title) >= 2, "as a link and as a heading"
    assert texts.count("Boxes") == texts.count("Masks") == 7
    assert {"Missed", "Doubled", "Invented"} <= set(texts)


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([[(0, BOX, 0)]], [[]]),
        ([[(0, BOX, 0)]], [[(0, BOX, 0.9)]]),
        ([[(0, BOX, 1)]], [[(0, BOX, 0.9)]]),
        ([[]], [[(0, BOX, 0.9)]]),
        ([[]], [[]]),
    ],
    ids=["nothing found", "all right", "only crowds", "no objects", "nothing at all"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_page_of_almost_nothing(objects, found):
    assert "Average precision" in write(evaluated(objects, found, ("cat",), with_masks=True))


def test_many_classes_are_listed_and_the_most_frequent_drawn():
    names = [f"class {k}" for k in range(300)]
    objects = [[(k % 40, BOX, 0)] for k in range(60)]
    found = [[(k % 40, BOX, 0.5)] for k in range(59)]
    content = write(evaluated(objects, [*found, []], names))
    assert "Shown: the 20 classes with most objects; 20 more have objects." in content
    assert "class 299" in content and len(content) < 5_000_000


def test_a_picture_is_made_as_small_as_wanted():
    noise = Image.effect_noise((900, 500), 90).convert("RGB")
    for most in (200_000, 20_000, 6000):
        assert 0 < len(as_jpeg(noise, most)) <= most
    assert as_jpeg(noise, 300) is None
