"""Pools of unlabelled images and pairs of them."""

import json
from collections import Counter

import pytest
from PIL import Image

from detkit.data.pairs.pool import ImageList, PairImages, PoolPairs, check_apart, draw_pairs
from detkit.data.pairs.synthetic import SyntheticPairs


@pytest.fixture
def folder(tmp_path):
    """Five images of cats, two of dogs and one of a cow, with the json of an `ImageList`."""
    images, classes = [], [1, 1, 1, 1, 1, 2, 2, 3]
    (tmp_path / "images").mkdir()
    for number, category in enumerate(classes):
        Image.new("RGB", (20 + number, 16), (number * 20, 0, 0)).save(tmp_path / "images" / f"{number}.png")
        size = dict(width=20 + number, height=16)
        images.append(dict(id=number, file_name=f"{number}.png", category_id=category, **size))
    images[0]["bbox"] = [1, 2, 10, 5]
    categories = [dict(id=3, name="cow"), dict(id=1, name="cat"), dict(id=2, name="dog")]
    (tmp_path / "pool.json").write_text(json.dumps(dict(images=images, categories=categories)))
    return tmp_path


def change(folder, **sections):
    content = json.loads((folder / "pool.json").read_text())
    (folder / "pool.json").write_text(json.dumps(content | sections))


def test_image_list(folder):
    pool = ImageList(folder / "pool.json")
    assert pool.label_map.names == ("cat", "dog", "cow") and pool.labels == [0] * 5 + [1, 1, 2]
    assert pool.sides[0].box.tolist() == [1, 2, 11, 7] and pool.sides[1].box is None
    assert pool.read(pool.sides[3]).shape == (3, 16, 23)


def test_image_list_names_what_is_wrong(folder):
    change(folder, images=[dict(id=1, file_name="0.png", width=1, height=1, category_id=7)])
    with pytest.raises(ValueError, match=r"all images are of categories that it .*: image 1 is of category 7"):
        ImageList(folder / "pool.json")
    change(folder, images=[dict(id=1, file_name="0.png")])
    with pytest.raises(ValueError, match="lacks 'width'"):
        ImageList(folder / "pool.json")


def test_pairs_are_within_classes_both_ways_and_balanced(folder):
    pool = ImageList(folder / "pool.json")
    everything = draw_pairs(pool, 1000, seed=0)
    assert len(everything) == len(set(everything)) == 5 * 4 + 2
    assert set(everything) == {(b, a) for a, b in everything}
    assert all(pool.labels[a] == pool.labels[b] and a != b for a, b in everything)
    few = draw_pairs(pool, 4, seed=1)
    assert Counter(pool.labels[a] for a, _ in few) == {0: 2, 1: 2}
    assert draw_pairs(pool, 4, seed=1) == few
    assert any(draw_pairs(pool, 4, seed=seed) != few for seed in range(5))


def test_forbidden_pairs_are_left_out(folder):
    pool = ImageList(folder / "pool.json")
    known = [(pool.sides[5].file, pool.sides[6].file)]
    pairs = draw_pairs(pool, 1000, seed=0, forbidden=known)
    assert (5, 6) not in pairs and (6, 5) in pairs and len(pairs) == 21


def test_pool_pairs_can_be_read(folder):
    pool = ImageList(folder / "pool.json")
    images, known = PoolPairs(pool, [(0, 4)])[0]
    assert images.source.shape == (3, 16, 20) and images.target.shape == (3, 16, 24)
    assert len(known) == 0 and known.source_box.tolist() == [1, 2, 11, 7] and known.target_box is None


def test_images_of_a_dataset_of_pairs():
    pairs = SyntheticPairs(12, images=16, size=48, seed=3)
    pool = PairImages(pairs)
    assert len(pool) == len({side.file for i in range(12) for side in pairs.sides(i)}) <= 16
    side = pairs.sides(5)[0]
    number = [s.file for s in pool.sides].index(side.file)
    assert pool.labels[number] == pairs.labels[5] and len(pool.sides[number].points) == 0
    assert (pool.read(pool.sides[number]) == pairs[5][0].source).all()
    assert PairImages(pairs, boxes=False).sides[0].box is None
    some = SyntheticPairs(12, images=16, size=48, seed=3, limit=2)
    rest = PairImages(pairs, without=[some])
    assert {side.file for side in rest.sides} == {s.file for s in pool.sides} - {s.file for s in PairImages(some).sides}
    with pytest.raises(ValueError, match="no image of the pairs is left"):
        PairImages(pairs, without=[pairs])


def test_overlap_is_found_by_path_content_and_name(folder):
    pool = ImageList(folder / "pool.json")
    with pytest.raises(ValueError, match=r"8 of 8 images of the pool are also in data\.val"):
        check_apart(pool, pool, "data.val")
    copies = folder / "copies"
    copies.mkdir()
    for number in range(8):
        data = (folder / "images" / f"{number}.png").read_bytes()
        (copies / f"copy{number}.png").write_bytes(data)
    content = json.loads((folder / "pool.json").read_text())
    content["images"] = [dict(image, file_name=f"copy{image['id']}.png") for image in content["images"]]
    (folder / "copies.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="8 of 8"):
        check_apart(pool, ImageList(folder / "copies.json", copies), "data.val")
    for number in range(8):
        Image.new("RGB", (20, 16), (0, number, 255)).save(copies / f"copy{number}.png")
        Image.new("RGB", (20, 16), (0, number, 255)).save(copies / f"{number}.png")
    check_apart(pool, ImageList(folder / "copies.json", copies), "data.val")
    check_apart(pool, ImageList(folder / "pool.json", copies), "data.val")
    with pytest.raises(ValueError, match="8 of 8"):
        check_apart(pool, ImageList(folder / "pool.json", copies), "data.val", by_name=True)


def test_generated_images_of_another_seed_are_others():
    one, other = (PairImages(SyntheticPairs(12, images=16, size=48, seed=seed)) for seed in (0, 1))
    check_apart(one, other, "data.val", by_name=False)
    with pytest.raises(ValueError, match="synthetic-0"):
        check_apart(one, one, "data.val")
