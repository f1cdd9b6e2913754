"""`detkit predict` with points and with image pairs, and the samples that a run draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pyramid import SmallPyramid
from torch import nn

from detkit.checkpoints.weights import make_header, save_weights
from detkit.cli import main
from detkit.data.pairs.synthetic import SyntheticPairs
from detkit.data.synthetic import SyntheticScenes
from detkit.engine.writers import draw_samples
from detkit.ops.rle import decode_mask
from detkit.registry import is_registered, register
from detkit.runtime.components import build_model, import_components
from detkit.structures import LabelMap

SCENES = SyntheticScenes(3, size=64, min_objects=2, max_objects=3)
RULE = dict(shortest=64, longest=96)
SWIN = dict(type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=9, pos_dim=32)
VIDT = dict(
    type="ViDT", backbone=SWIN, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64, mask_vectors=20, input_rule=RULE
)
SOLO = dict(
    type="SOLOv2",
    backbone=dict(type=SmallPyramid.__name__),
    num_grids=(10, 8, 6, 4, 3),
    instance_channels=16,
    instance_convs=1,
    kernel_channels=16,
    mask_channels=16,
    input_rule=RULE,
)
MATCHER = dict(type="NearestNeighbourMatcher", backbone=dict(type="PredictLayers"), side=64, grid=8)


class PredictLayers(nn.Module):
    num_channels = (8,)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8, bias=False)

    def forward(self, images):
        return [self.conv(images)]


if not is_registered("PredictLayers"):
    register(PredictLayers)


def checkpoint(path, config, label_map=SCENES.label_map):
    torch.manual_seed(0)
    import_components()
    model = build_model(config, label_map).eval()
    if config["type"] == "SOLOv2":
        with torch.no_grad():  # masks with some area everywhere
            for head in (model.instance_head.category, model.instance_head.kernel):
                head.weight.normal_(std=0.3)
    save_weights(path, model.state_dict(), make_header(dict(model=config), model))
    return model


def point_file(path, names, annotations, categories=None):
    images = [dict(id=i, file_name=name, width=64, height=64) for i, name in enumerate(names)]
    categories = categories or [
        dict(id=i, name=name) for i, name in zip(SCENES.label_map.category_ids, SCENES.label_map.names, strict=True)
    ]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return str(path)


def annotation(number, image, point, category, box=None):
    return dict(id=number, image_id=image, point=point, category_id=category, **({"bbox": box} if box else {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    (folder / "images" / "b").mkdir(parents=True)
    for name, (image, _) in zip(("one.png", "b/two.png", "three.png"), (SCENES[i] for i in range(3)), strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / name)
    for name, config in (("vidt", VIDT), ("solo", SOLO), ("boxes", {**VIDT, "mask_vectors": 0}), ("match", MATCHER)):
        checkpoint(folder / f"{name}.safetensors", config)
    return folder


def clicks(index, image, first):
    """A point file's annotations of one scene: a point on each object."""
    _, truth = SCENES[index]
    found = []
    for i, (mask, label, box) in enumerate(zip(truth.masks, truth.labels.tolist(), truth.boxes.tolist(), strict=True)):
        ys, xs = mask.nonzero(as_tuple=True)
        middle = len(xs) // 2
        x1, y1, x2, y2 = box
        found.append(
            annotation(
                first + i,
                image,
                [int(xs[middle]), int(ys[middle])],
                SCENES.label_map.category_ids[label],
                [x1, y1, x2 - x1, y2 - y1],
            )
        )
    return found


def predict(folder, name, images, *options, out="out"):
    return main(
        ["predict", str(folder / f"{name}.safetensors"), *map(str, images), "--out", str(folder / out), *options]
    )


@pytest.mark.parametrize("prompt", [None, "point", "point_with_size", "class"])
@pytest.mark.parametrize("name", ["vidt", "solo", "boxes"])
def test_points_of_several_images(folder, capsys, name, prompt):
    asked = clicks(0, 0, 10) + clicks(1, 1, 20)
    points = point_file(folder / "points.json", ["one.png", "b/two.png", "three.png"], asked)
    options = ["--points", points] + (["--prompt", prompt] if prompt else [])
    assert predict(folder, name, [folder / "images"], *options, out=f"{name}{prompt}") == 0
    out, printed = folder / f"{name}{prompt}", capsys.readouterr().out
    assert f"for {len(asked)} points in 3 images" in printed
    assert "1 images have no points: " in printed and "three.png" in printed
    records = {Path(record["file"]).name: record for record in json.loads((out / "predictions.json").read_text())}
    assert len(records) == 3 and records["three.png"]["objects"] == [] and records["three.png"]["image_id"] == 2
    by_id = {a["id"]: a for a in asked}
    for record, image in ((records["one.png"], 0), (records["two.png"], 1)):
        with Image.open(out / record["drawn"]) as drawn:
            assert drawn.size == (64, 64)
        assert record["image_id"] == image
        if prompt == "class":
            assert record["unanswered"] == [] and all("annotation_id" not in o for o in record["objects"])
            continue
        answered = {o["annotation_id"] for o in record["objects"]}
        mine = {a["id"] for a in asked if a["image_id"] == image}
        assert answered | set(record["unanswered"]) == mine and not answered & set(record["unanswered"])
        for found in record["objects"]:
            wanted = by_id[found["annotation_id"]]
            assert found["point"] == wanted["point"] and found["category_id"] == wanted["category_id"]
            if name == "vidt":
                x, y = found["point"]
                assert decode_mask(found["segmentation"], 64, 64)[y, x]
    results = json.loads((out / "results.json").read_text())
    objects = [o for record in records.values() for o in record["objects"]]
    assert len(results) == len(objects) and {r["image_id"] for r in results} <= {0, 1}
    assert name != "solo" or results


def test_the_answers_of_the_tool_are_those_of_the_model(folder):
    import detkit

    asked = clicks(0, 0, 10)
    points = point_file(folder / "points.json", ["one.png"], asked)
    assert predict(folder, "vidt", [folder / "images" / "one.png"], "--points", points, "--min-score", "0.02") == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    label_of = {category: label for label, category in enumerate(SCENES.label_map.category_ids)}
    model = detkit.load(folder / "vidt.safetensors")
    given = dict(points=[a["point"] for a in asked], labels=[label_of[a["category_id"]] for a in asked])
    found = model.predict(folder / "images" / "one.png", **given)[0]
    assert results == found[found.scores >= 0.02].to_coco(0, [a["id"] for a in asked])


def test_points_that_fit_no_image_are_reported(folder, capsys):
    asked = [
        *clicks(0, 0, 10),
        annotation(50, 1, [1, 1], 1),
        annotation(51, 1, [1, 1], 1),
        annotation(52, 0, [90, 1], 1),
    ]
    points = point_file(folder / "points.json", ["one.png", "elsewhere/two.png"], asked)
    assert predict(folder, "vidt", [folder / "images"], "--points", points) == 0
    printed, warned = capsys.readouterr()
    assert "2 points are of 1 images that were not given: elsewhere/two.png" in printed
    assert "2 images have no points" in printed
    assert "annotation 52 of image 0" in warned


def test_a_smaller_image_than_the_file_says_is_left_out(folder, capsys):
    Image.new("RGB", (20, 20)).save(folder / "small.png")
    points = point_file(folder / "points.json", ["small.png"], [annotation(7, 0, [40, 30], 1)])
    assert predict(folder, "vidt", [folder / "small.png"], "--points", points) == 2
    warned = capsys.readouterr().err
    assert "small.png is left out: 1 points lie outside its 20 x 20 pixels: annotation 7 at (40, 30)" in warned
    assert "error: none of the 1 files could be used, the reasons are above: " in warned


def points_of_a_photo(folder, name, orientation, annotated):
    """Predictions of `detkit predict --points` for one scene whose photo is stored and annotated that way."""
    store = {1: None, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    picture, exif = Image.fromarray(SCENES[0][0][:, :48].permute(1, 2, 0).numpy()), Image.Exif()
    exif[0x0112] = orientation
    stored = picture.transpose(store[orientation]) if store[orientation] is not None else picture
    numbers = np.arange(48 * 64, dtype=np.int32).reshape(48, 64)
    if annotated != 1:
        numbers = np.asarray(Image.fromarray(numbers).transpose(store[annotated]))
    root = folder / name
    root.mkdir()
    stored.save(root / "photo.png", exif=exif)
    images = [dict(id=0, file_name="photo.png", width=numbers.shape[1], height=numbers.shape[0])]
    categories = [dict(id=SCENES.label_map.category_ids[0], name="disk")]
    asked = []
    for number in range(100, 48 * 64, 200):
        (y,), (x,) = (numbers == number).nonzero()
        asked.append(annotation(number, 0, [int(x), int(y)], categories[0]["id"]))
    (root / "points.json").write_text(json.dumps(dict(images=images, annotations=asked, categories=categories)))
    points = str(root / "points.json")
    assert predict(folder, "solo", [root / "photo.png"], "--points", points, out=f"{name}out") == 0
    with Image.open(folder / f"{name}out" / "photo.jpg") as drawn:
        assert drawn.size == (64, 48)
    return json.loads((folder / f"{name}out" / "results.json").read_text())


@pytest.mark.parametrize(("orientation", "annotated"), [(6, 1), (6, 6), (8, 1), (8, 8)])
def test_points_of_a_turned_photo_are_those_of_the_upright_one(folder, orientation, annotated):
    name = f"photo{orientation}{annotated}"
    found = points_of_a_photo(folder, name, orientation, annotated)
    assert found and found == points_of_a_photo(folder, f"{name}plain", 1, 1)
    assert all(64 * y + x == result["annotation_id"] for result in found for x, y in [result["point"]])


def test_classes_are_found_by_name_or_by_number(folder, capsys):
    image, disk = folder / "images" / "one.png", SCENES.label_map.category_ids[0]
    renumbered = [dict(id=99, name="disk"), dict(id=98, name="zebra")]
    points = point_file(folder / "points.json", ["one.png"], [annotation(7, 0, [40, 30], 99)], renumbered)
    assert predict(folder, "solo", [image], "--points", points) == 0
    results = json.loads((folder / "out" / "results.json").read_text())
    assert [r["category_id"] for r in results] == [disk]
    unknown = [annotation(7, 0, [40, 30], 99), annotation(8, 0, [40, 30], 98)]
    points = point_file(folder / "points.json", ["one.png"], unknown, renumbered)
    assert predict(folder, "solo", [image], "--points", points) == 2
    assert "does not know the classes of 1 points: annotation 8 is of class 'zebra'" in capsys.readouterr().err
    checkpoint(folder / "numbered.safetensors", VIDT, LabelMap.numbered(3))
    points = point_file(folder / "points.json", ["one.png"], [annotation(7, 0, [40, 30], 2)], [dict(id=2, name="cat")])
    assert predict(folder, "numbered", [image], "--points", points) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vidt", "one.png", "--points", "none.json"], "none.json"),
        (["vidt", "three.png", "--points", "points.json"], "no points for any of the 1 images given"),
        (
            ["vidt", "one.png", "--points", "points.json", "--prompt", "point_with_size"],
            "have no bbox: 7",
        ),
        (["vidt", "one.png", "--points", "1,2", "3,4"], "one file of points"),
        (["vidt", "one.png", "--grid", "4"], "--grid is for matchers"),
        (["vidt", "one.png", "--prompt", "point"], "give them too"),
        (["match", "one.png"], "takes two image files"),
        (["match", "one.png", "three.png", "b/two.png"], "takes two image files"),
        (["match", "one.png", "b"], "takes two image files"),
        (["match", "one.png", "three.png", "--points", "1,2", "--grid", "3"], "either --points x,y x,y ... or --grid"),
        (["match", "one.png", "three.png", "--prompt", "point"], "no --prompt"),
        (["match", "one.png", "three.png", "--points", "points.json"], "takes points as x,y"),
        (["match", "one.png", "three.png", "--points", "65,3"], "0 at (65, 3)"),
        (["match", "one.png", "three.png", "--grid", "0"], "at least 1 point"),
    ],
)
def test_what_does_not_fit_is_an_error(folder, capsys, monkeypatch, arguments, message):
    name, *rest = arguments
    point_file(folder / "images" / "points.json", ["one.png"], [annotation(7, 0, [40, 30], 1)])
    monkeypatch.chdir(folder / "images")
    assert predict(folder, name, rest, out="wrong") == 2
    assert message in capsys.readouterr().err
    assert not (folder / "wrong").exists()


def test_names_that_stand_for_several_files(folder, capsys):
    (folder / "images" / "c").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64)).save(folder / "images" / "c" / "two.png")
    points = point_file(folder / "points.json", ["two.png"], [annotation(7, 0, [40, 30], 1)])
    assert predict(folder, "vidt", [folder / "images"], "--points", points) == 2
    assert "image 0 (two.png) is ambiguous" in capsys.readouterr().err
    (folder / "images" / "c" / "two.png").unlink()


def test_a_detector_without_prompts(folder):
    from detkit.inference.points import predict_points
    from detkit.runtime.components import build_model

    swin = dict(type="Swin", embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], num_tokens=3)
    model = build_model(dict(type="ViDTWithoutNeck", backbone=swin), SCENES.label_map).eval()
    with pytest.raises(ValueError, match="ViDTWithoutNeck takes no point prompts"):
        predict_points(model, [folder], folder / "points.json", folder / "none")


def test_matches_of_two_images(folder, capsys):
    Image.new("L", (90, 50), 70).save(folder / "grey.png")
    pair = [folder / "images" / "one.png", folder / "grey.png"]
    assert predict(folder, "match", pair, "--grid", "3", out="pair") == 0
    assert "9 matches" in capsys.readouterr().out
    with Image.open(folder / "pair" / "warped.png") as warped, Image.open(folder / "pair" / "matches.jpg") as drawn:
        assert warped.size == (90, 50) and drawn.width > drawn.height
    record = json.loads((folder / "pair" / "matches.json").read_text())
    assert (record["source"], record["target"]) == tuple(map(str, pair))
    assert record["matches"][1]["source"] == [32, pytest.approx(64 / 6, abs=0.01)]
    for match in record["matches"]:
        x, y = match["target"]
        assert 0 <= x <= 90 and 0 <= y <= 50 and 0 <= match["confidence"] <= 1


@pytest.mark.parametrize("name", ["warped.png", "matches.jpg"])
def test_outputs_never_replace_an_image_of_the_pair(folder, capsys, name):
    own = folder / f"pair of {name}"
    own.mkdir()
    for file in (own / name, own / "other.png"):
        Image.new("RGB", (64, 64), "red").save(file)
    before = (own / name).read_bytes()
    assert predict(folder, "match", [own / name, own / "other.png"], out=own.name) == 2
    assert f"{name} would be overwritten" in capsys.readouterr().err and (own / name).read_bytes() == before
    for _ in range(2):
        assert predict(folder, "match", [own / "other.png"] * 2, out="again") == 0


def test_matches_of_chosen_points_and_of_an_image_with_itself(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    pair = [folder / "noise.png"] * 2
    assert predict(folder, "match", pair, "--points", "12,20", "44,52", out="self") == 0
    matches = json.loads((folder / "self" / "matches.json").read_text())["matches"]
    assert [m["source"] for m in matches] == [[12, 20], [44, 52]]
    assert [m["target"] for m in matches] == [[12, 20], [44, 52]]  # centres of cells
    assert predict(folder, "match", pair, "--min-score", "1.1", out="none") == 0
    assert json.loads((folder / "none" / "matches.json").read_text())["matches"] == []


def test_samples_of_pairs_are_drawn_as_matches(folder, tmp_path):
    import detkit

    pairs = SyntheticPairs(3, size=64, images=8)
    draw_samples(detkit.load(folder / "match.safetensors"), pairs, 2, tmp_path / "samples")
    drawn = sorted((tmp_path / "samples").glob("*.png"))
    assert [path.name for path in drawn] == [f"{pairs[i][1].pair_id}.png" for i in range(2)]
    with Image.open(drawn[0]) as picture:
        assert picture.width > 2 * picture.height - 5


def test_samples_of_other_data_are_not_drawn(folder, tmp_path, caplog):
    import detkit

    caplog.set_level("INFO")
    draw_samples(detkit.load(folder / "match.safetensors"), [(torch.zeros(3, 8, 8), {"x": 1})], 2, tmp_path / "samples")
    assert "there is no picture of dict" in caplog.text and not (tmp_path / "samples").exists()
