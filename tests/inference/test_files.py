"""`detkit predict` and the files around it: inputs are never written over, one image never ends a folder."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detkit.checkpoints.weights import make_header, read_weights, save_weights
from detkit.cli import main
from detkit.inference import processing as inference
from detkit.inference.files import check_outputs, drawing_names, save_drawing
from detkit.modeling.sources import find_images, is_drawing
from detkit.runtime.components import build_model, import_components
from detkit.structures import LabelMap

SWIN = dict(type="Swin", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window=4, num_tokens=30, pos_dim=16)
VIDT = dict(type="ViDT", backbone=SWIN, hidden_dim=16, decoder_layers=1, heads=2, ffn_dim=32, proposals=True)
NAMES = ("a.jpg", "a.png", "A.bmp", "a_1.jpg", "sub/a.jpg", "sub/a.png.jpg", "sub/a.png")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    import_components()
    config = {**VIDT, "input_rule": dict(shortest=64, longest=128)}
    model = build_model(config, LabelMap(("chat", "犬"), (1, 2)))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(path, model.state_dict(), make_header(dict(model=config), model))
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (50, 60 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def predict(checkpoint, *paths, out, score="0"):
    return main(["predict", str(checkpoint), *map(str, paths), "--out", str(out), "--min-score", score])


def records_of(out):
    return {Path(record["file"]).name: record for record in json.loads((out / "predictions.json").read_text())}


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_photos_are_never_written_over(checkpoint, photos, capsys):
    before = digests(photos)
    assert predict(checkpoint, photos, out=photos) == 2
    error = capsys.readouterr().err
    assert "a.jpg" in error and "would be overwritten" in error and "choose another folder for --out" in error
    assert predict(checkpoint, photos / "sub", out=photos) == 2  # a.jpg beside it is no input, but no drawing either
    assert digests(photos) == before
    for number in range(2):
        assert predict(checkpoint, photos, out=photos / "drawn") == 0
        assert f"in {len(NAMES)} images" in capsys.readouterr().out, number
    assert {path: value for path, value in digests(photos).items() if "drawn" not in path.parts} == before


def test_a_second_run_leaves_its_own_drawings_alone(checkpoint, tmp_path, capsys):
    Image.new("RGB", (60, 50), "red").save(tmp_path / "a.png")
    for _ in range(2):
        assert predict(checkpoint, tmp_path, out=tmp_path) == 0
        assert "in 1 images" in capsys.readouterr().out
    assert is_drawing(tmp_path / "a.jpg") and not is_drawing(tmp_path / "a.png")


def test_drawings_mirror_the_folders_and_never_collide(checkpoint, photos, tmp_path):
    assert predict(checkpoint, photos, out=tmp_path / "out") == 0
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    drawn = [record["drawn"] for record in records]
    assert len(drawn) == len({name.casefold() for name in drawn}) == len(NAMES)
    for record in records:
        inside = Path(record["file"]).relative_to(photos)
        assert Path(record["drawn"]).parent == inside.parent
        with Image.open(tmp_path / "out" / record["drawn"]) as drawing, Image.open(record["file"]) as photo:
            assert drawing.size == photo.size
    assert "A.jpg" in drawn and "sub/a.jpg" in drawn


parts = st.text(st.sampled_from("aA.1_é犬"), min_size=1, max_size=6).filter(lambda text: text.strip("."))


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            lambda folder, stem, suffix: Path(folder, stem + suffix),
            parts,
            parts,
            st.sampled_from([".jpg", ".png", ".JPG", ".png.jpg", "_2.jpg"]),
        ),
        unique=True,
    )
)
def test_names_of_drawings_differ_whatever_the_names_of_images(places):
    names = drawing_names({Path("root") / place: place for place in places})
    assert len({str(name).casefold() for name in names.values()}) == len(places) == len(names)
    assert all(name.suffix == ".jpg" and name.parent == file.relative_to("root").parent for file, name in names.items())


def test_a_folder_may_have_the_name_of_a_drawing():
    places = [Path("a.png"), Path("a.jpg", "b.png")]
    names = drawing_names({place: place for place in places})
    assert [str(name) for name in names.values()] == ["a.png.jpg", "a.jpg/b.jpg"]


def test_long_names(tmp_path, checkpoint, capsys):
    for suffix in (".png", ".bmp"):
        Image.new("RGB", (60, 50)).save(tmp_path / ("x" * 251 + suffix))
    assert predict(checkpoint, tmp_path, out=tmp_path / "out") == 0
    assert all((tmp_path / "out" / record["drawn"]).is_file() for record in records_of(tmp_path / "out").values())
    assert predict(checkpoint, tmp_path / ("x" * 300 + ".png"), out=tmp_path / "out") == 2
    assert "its name has more than 255 bytes" in capsys.readouterr().err


def test_one_image_never_ends_a_folder(checkpoint, tmp_path, capsys):
    good = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(good).save(tmp_path / "a.png")
    Image.new("RGB", (5000, 1)).save(tmp_path / "b_strip.png")
    Image.new("RGB", (1, 5000)).save(tmp_path / "c_strip.png")
    Image.new("RGB", (400, 20)).save(tmp_path / "d_few_positions.png")
    (tmp_path / "e_torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    Image.fromarray(good).save(tmp_path / "f.jpg")
    assert predict(checkpoint, tmp_path, out=tmp_path / "out") == 0
    printed, warned = capsys.readouterr()
    assert "in 3 images" in printed and "3 files could not be used" in printed
    assert "b_strip.png is left out: the image of 5000 x 1 pixels is too thin" in warned and "e_torn.png" in warned
    assert records_of(tmp_path / "out").keys() == {"a.png", "d_few_positions.png", "f.jpg"}
    assert len(records_of(tmp_path / "out")["d_few_positions.png"]["objects"]) > 0


def test_results_are_written_as_they_come(checkpoint, photos, tmp_path, monkeypatch):
    seen, save = [], inference.save_drawing

    def watch(picture, path):
        if (tmp_path / "out" / "predictions.json").exists():
            seen.append(len(json.loads((tmp_path / "out" / "predictions.json").read_text())))
        if len(seen) == 3:
            raise KeyboardInterrupt
        save(picture, path)

    monkeypatch.setattr(inference, "save_drawing", watch)
    monkeypatch.setattr(inference, "WRITE_EVERY", 0.0)
    monkeypatch.setattr(inference, "WRITING_SHARE", 1e9)
    assert predict(checkpoint, photos, out=tmp_path / "out") == 130
    assert seen == [1, 2, 3] and len(records_of(tmp_path / "out")) > 1


def test_nothing_found_tells_the_best_score_and_the_flag(checkpoint, photos, tmp_path, capsys):
    assert predict(checkpoint, photos, out=tmp_path / "out", score="0.999") == 0
    assert "0 objects in 7 images; no score reaches --min-score 0.999, the best is 0." in capsys.readouterr().out


def test_thresholds_of_the_checkpoint_decide_where_no_score_is_given(checkpoint, photos, tmp_path, capsys):
    def predicted(**thresholds):
        weights, header = read_weights(checkpoint)
        save_weights(tmp_path / "chosen.safetensors", weights, {**header, "thresholds": thresholds})
        assert main(["predict", str(tmp_path / "chosen.safetensors"), str(photos), "--out", str(tmp_path / "out")]) == 0
        return {o["name"] for record in records_of(tmp_path / "out").values() for o in record["objects"]}

    assert predicted(chat=0.999, 犬=0.0) == {"犬"}
    assert predicted(chat=0.999, 犬=0.999) == set()
    assert "no score reaches the threshold of its class (--min-score 0 shows all)" in capsys.readouterr().out


def test_urls_that_cannot_be_downloaded_are_refused_as_urls(checkpoint, tmp_path, capsys):
    url = "s3://bucket/a.jpg"
    assert predict(checkpoint, url, out=tmp_path / "out") == 2
    assert f"{url} is a URL: download the image and give its path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "predict URL photo.jpg --out drawn",
        "predict model.safetensors photo.jpg --out URL",
        "evaluate URL",
        "train URL",
        "check-points URL",
        "check-points points.json --images URL",
        "split-points URL --percent 50 --out split",
        "wssis wssis_custom --set split=none data.strong=URL data.weak=URL data.image_folder=images",
    ],
)
def test_no_command_takes_a_url_for_a_path(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    try:
        assert main(command.replace("URL", "https://example.com/x.y").split()) == 2
    except SystemExit as end:  # of the parser
        assert end.code == 2
    assert "https://example.com/x.y is a URL: " in capsys.readouterr().err
    assert not (tmp_path / "https:").exists()


def test_every_common_format_is_read_and_other_files_are_mentioned(tmp_path, caplog):
    suffixes = [".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".tif"]
    for suffix in suffixes:
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"a{suffix}")
    (tmp_path / "photo.HEIC").write_bytes(b"x")
    (tmp_path / "readme").write_text("x")
    with caplog.at_level("INFO"):
        assert sorted(path.suffix for path in find_images([tmp_path])) == sorted(suffixes)
    assert "left out 2 files that are no images to predict: .heic (1), no suffix (1)" in caplog.text
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "photo.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no images .*there are files of \.heic \(1\)"):
        find_images([tmp_path / "only"])


def test_a_file_given_twice_is_predicted_once(photos):
    assert len(find_images([photos, photos / "a.jpg", photos / "sub"])) == len(NAMES)


def test_inputs_of_other_kinds_are_kept_too(tmp_path):
    inputs = tmp_path / "results.json"
    inputs.write_text("{}")
    (tmp_path / "link.json").symlink_to(inputs)
    for output in (inputs, tmp_path / "link.json"):
        with pytest.raises(ValueError, match=r"\.json would be overwritten"):
            check_outputs([], [output], [inputs])
    check_outputs([], [tmp_path / "new.json"], [inputs])


def test_very_long_images_are_drawn_smaller(tmp_path):
    save_drawing(Image.new("RGB", (70000, 20)), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as drawing:
        assert max(drawing.size) == 65500
