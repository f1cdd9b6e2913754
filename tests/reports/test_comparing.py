import pytest
from found import evaluated

from detkit.reports import comparing

BOX, OTHER = [0, 0, 20, 20], [50, 50, 80, 80]
OBJECTS = [[(0, BOX, 0)], [(0, BOX, 0), (1, OTHER, 0)], []]
FIRST = [[(0, BOX, 0.9)], [(0, BOX, 0.8), (1, OTHER, 0.9)], []]
SECOND = [[(0, BOX, 0.8)], [(0, OTHER, 0.9), (1, OTHER, 0.9)], [(0, BOX, 0.9)]]


@pytest.fixture
def compare(monkeypatch):
    both = {name: evaluated(OBJECTS, found, ("cat", "<b>dog</b>")) for name, found in (("a", FIRST), ("b", SECOND))}
    both["other"] = evaluated([*OBJECTS[:2], [(0, BOX, 0)]], FIRST, ("cat", "<b>dog</b>"))
    monkeypatch.setattr(comparing, "evaluate_checkpoint", lambda source, **_: both[source])
    return comparing.compare


def test_differences_and_images_that_changed(compare):
    content = compare("a", "b", resamples=50)
    classes = content["classes"]["bbox"]
    assert classes["cat"]["a"] == 1 and classes["cat"]["b"] < 0.3
    assert classes["cat"]["high"] <= 0 and classes["cat"]["low"] < classes["cat"]["difference"]
    assert classes["<b>dog</b>"]["difference"] == 0
    assert [(row["image_id"], row["a"], row["b"]) for row in content["changed"]] == [(7, 1.0, 0.0), (6, 1.0, 0.5)]


def test_the_seed_decides(compare):
    assert compare("a", "b", resamples=20) == compare("a", "b", resamples=20)
    intervals = [compare("a", "b", resamples=20, seed=seed)["figures"]["bbox/AP"]["low"] for seed in range(4)]
    assert len(set(intervals)) > 1


def test_the_page_of_a_comparison(compare, tmp_path):
    compare("a", "b", tmp_path / "page.html", resamples=5)
    page = (tmp_path / "page.html").read_text()
    assert "5 times 3 images" in page and "&lt;b&gt;dog" in page and "<b>dog" not in page
    assert page.count("data:image/jpeg") == 2 and "http" not in page


def test_other_validation_data_is_refused(compare):
    with pytest.raises(ValueError, match=r"different validation sets .3 images, 3 objects / 3 images, 4 objects"):
        compare("a", "other")
