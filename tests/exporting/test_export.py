"""`detkit export` with each format, and the files that it wrote."""

import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from small_vidt import small_config

import detkit
from detkit.checkpoints.weights import make_header, save_weights
from detkit.cli import main
from detkit.exporting import program
from detkit.exporting.comparing import Tolerance
from detkit.exporting.description import KEY
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

NAMES = ("Red cell", "white")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint, and eight images of several sizes beside it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    config = dict(model=small_config(1))
    model = build_model(config["model"], LabelMap(NAMES, (1, 7)))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    save_weights(folder / "best.safetensors", model.state_dict(), make_header(config, model))
    (folder / "images").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (48 + 8 * (i % 3), 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def onnx_file(run):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    assert main(["export", str(run), "--format", "onnx", "--images", str(run / "images")]) == 0
    return run / "best.onnx"


def same(exported, run):
    original = detkit.load(run)
    image = run / "images" / "2.png"  # which fills the frame: padding changes numbers a little
    one, other = (model.predict(image, min_score=0)[0] for model in (original, exported))
    assert len(one) > 0
    assert torch.allclose(one.boxes, other.boxes, atol=0.01) and torch.allclose(one.scores, other.scores, atol=1e-5)
    assert one.names() == other.names() and one.category_ids() == other.category_ids()


def test_onnx(onnx_file, run, tmp_path):
    import onnx

    same(detkit.load(onnx_file), run)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    entries = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert json.loads(entries[KEY])["label_map"]["names"] == list(NAMES)
    assert main(["predict", str(onnx_file), str(run / "images"), "--out", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 8


def test_onnx_file_that_reads_other_files_is_refused(onnx_file, tmp_path):
    import onnx

    proto = onnx.load(onnx_file)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights", size_threshold=16)
    with pytest.raises(ValueError, match="lies in another file"):
        detkit.load(path)


def test_files_that_are_no_exports_are_refused(onnx_file, tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="does not exist"):
        detkit.load(path)
    path.write_bytes(onnx_file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged or no ONNX file"):
        detkit.load(path)
    proto = onnx.load(onnx_file)
    del proto.metadata_props[:]
    onnx.save(proto, path)
    with pytest.raises(ValueError, match="was not written by detkit export"):
        detkit.load(path)


@pytest.mark.parametrize(
    ("altered", "message"),
    [
        (dict(task="matching"), "its inputs are"),
        (dict(input_rule=dict(wide=3)), "input_rule in its header must be"),
        (dict(label_map=dict(names="a")), "model.onnx"),
        (dict(size=[0, 64]), "not that of detkit export"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_altered_metadata_end_in_one_line(onnx_file, tmp_path, altered, message):
    import onnx

    proto, path = onnx.load(onnx_file), tmp_path / "model.onnx"
    entry = next(entry for entry in proto.metadata_props if entry.key == KEY)
    entry.value = json.dumps(json.loads(entry.value) | altered)
    onnx.save(proto, path)
    with pytest.raises(ValueError, match=message):
        detkit.load(path)


def test_openvino(run, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):
        pytest.skip("OpenVINO does not bear ONEDNN_MAX_CPU_ISA")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    made = detkit.export(run, format="openvino", out=tmp_path / "small.xml", size=64, images=run / "images")
    assert made.path.with_suffix(".bin").is_file()
    same(detkit.load(made.path), run)
    made.path.with_suffix(".bin").unlink()
    with pytest.raises(ValueError, match="are missing"):
        detkit.load(made.path)


def test_torch(run, tmp_path):
    made = detkit.export(run, format="torch", out=tmp_path / "small.pt2", images=run / "images", batch="dynamic")
    exported = detkit.load(made.path)
    same(exported, run)
    images = sorted((run / "images").iterdir())
    assert len(exported.predict(images, batch_size=3)) == 8


def test_archive_that_could_run_code_is_refused(run, tmp_path):
    made = detkit.export(run, format="torch", out=tmp_path / "small.pt2", images=run / "images")
    harmful = {
        "model.json": (b'"torch.ops.aten.sigmoid.default"', b'"torch.hub.load"'),
        "weights_config.json": (b'"use_pickle": false', b'"use_pickle": true'),
    }
    for ending, (old, new) in harmful.items():
        path = tmp_path / "harmful.pt2"
        with zipfile.ZipFile(made.path) as source, zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                content = source.read(info)
                target.writestr(info.filename, content.replace(old, new) if info.filename.endswith(ending) else content)
        with pytest.raises(ValueError, match="could run code"):
            detkit.load(path)
    path.write_bytes(made.path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"is damaged or no file of torch\.export"):
        detkit.load(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"0" * 2**24, "unpacks to more than its size"), (b"", "is compressed")]
)
def test_compressed_archive_is_refused(tmp_path, content, message):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("bomb/models/model.json", content)
    with pytest.raises(ValueError, match=message):
        detkit.load(path)


def test_other_numbers_leave_no_file(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "Tolerance", lambda: Tolerance(pixels=1e-9, score=1e-12))
    out = tmp_path / "small.pt2"
    out.write_text("of before")
    code = main(["export", str(run), "--format", "torch", "--out", str(out), "--images", str(run / "images")])
    assert code == 2 and "it gives other numbers than the original: image 1" in capsys.readouterr().err
    assert out.read_text() == "of before" and [path.name for path in tmp_path.iterdir()] == ["small.pt2"]


def test_without_validation_images(run, tmp_path, caplog):
    made = detkit.export(run, format="torch", out=tmp_path / "small.pt2")
    assert made.images == "generated scenes" and "give some with --images FOLDER" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "small.pt"], "must end in .onnx"),
        (["--out", "nowhere/small.onnx"], "in a folder that exists"),
        (["--out", "folder.onnx"], "is a folder"),
        (["--size", "100"], "multiples of 32"),
        (["--format", "torch", "--int8"], "--int8 is done by onnxruntime"),
        (["--images", "."], "no images"),
    ],
)
def test_wrong_arguments(run, arguments, message, capsys, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    assert main(["export", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_package_that_is_missing(run, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    assert main(["export", str(run), "--format", "openvino"]) == 2
    assert 'pip install "detkit[openvino]"' in capsys.readouterr().err
