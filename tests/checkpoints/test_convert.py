import argparse
import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image

import detkit
from detkit.backbones.swin import Swin
from detkit.checkpoints.convert import convert_checkpoint, describe, official_config, read_official
from detkit.checkpoints.weights import read_header
from detkit.cli import main
from detkit.engine.runner import train
from detkit.vidt.convert import from_official
from detkit.vidt.model import ViDT

SIZES = dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window=4, num_tokens=6, pos_dim=64)


def official_state_dict():
    """What the official code saves of a model without fusion, by renaming ours."""
    torch.manual_seed(0)
    model = ViDT(Swin(**SIZES, cross_stages=(2, 3)), 91, hidden_dim=64, decoder_layers=1)
    weights = {}
    for key, value in model.state_dict().items():
        if key in ("tgt_proj.0.weight", "query_pos_proj.0.weight"):
            value = value[..., None]
        if key.startswith("bbox_embed."):
            weights[f"transformer.decoder.{key}"] = value
        key = key.replace("decoder.0.", "transformer.decoder.layers.0.").replace(
            "reference_p", "transformer.reference_p"
        )
        weights[key] = value
    return weights | {"transformer.level_embed": torch.zeros(4, 64)}


def save(path, **more):
    arguments = argparse.Namespace(lr=1e-4, output_dir="out", backbone_name="swin_nano")
    torch.save({"model": official_state_dict(), "epoch": 49, "args": arguments, **more}, path)
    return path


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return save(tmp_path_factory.mktemp("official") / "vidt_nano.pth")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images with the COCO ids of a person and a dog."""
    folder = tmp_path_factory.mktemp("images")
    images, annotations = [], []
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append(dict(id=i + 1, file_name=f"{i}.png", height=48, width=64))
        annotations.append(
            dict(id=i + 1, image_id=i + 1, category_id=(1, 18)[i], bbox=[4, 6, 20, 15], area=300, iscrowd=0)
        )
    categories = [dict(id=1, name="person"), dict(id=18, name="dog")]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


def dataset_overrides(folder):
    return [f"data.val.annotation_file={folder / 'boxes.json'}", f"data.val.image_folder={folder}"]


def test_the_file_rebuilds_the_converted_model_exactly(official, tmp_path):
    path = tmp_path / "new" / "vidt.safetensors"
    report = convert_checkpoint(official, path, cross_stages=(2, 3))
    expected, _ = from_official(official_state_dict(), cross_stages=(2, 3))
    loaded = detkit.load(path)
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert loaded.backbone.cross_stages == (2, 3) and loaded.input_rule == expected.input_rule
    assert repr(loaded) == repr(expected) and vars(loaded.criterion) == vars(expected.criterion)
    assert loaded.label_map == expected.label_map and len(loaded.label_map) == 91
    assert loaded.label_map.names[:2] == (None, "person") and loaded.label_map.category_ids == tuple(range(91))
    image = torch.randint(256, (3, 64, 80), dtype=torch.uint8)
    one, two = (model.predict(image, min_score=0)[0] for model in (loaded, expected))
    assert len(one) > 0
    assert torch.equal(one.boxes, two.boxes) and torch.equal(one.scores, two.scores)
    assert read_header(path)["converted_from"] == str(official)
    assert "transformer.level_embed" in describe(report) and str(report) in describe(report)
    assert [p.name for p in path.parent.iterdir()] == ["vidt.safetensors"]


@pytest.mark.filterwarnings("ignore:detections of categories")
def test_the_command_and_the_evaluation_that_it_suggests(official, folder, tmp_path, capsys):
    path, checksum = tmp_path / "vidt.safetensors", hashlib.sha256(official.read_bytes()).hexdigest()
    command = ["convert", str(official), str(path), "--cross-stages", "2", "3", "--sha256", checksum]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "tensors loaded" in printed and f"detkit evaluate {path} --set data.val.annotation_file=" in printed
    assert main(["evaluate", str(path), "--device", "cpu", "--set", "data.workers=0", *dataset_overrides(folder)]) == 0
    printed = capsys.readouterr().out
    assert "on 2 images" in printed and "person" in printed and "dog" in printed


def test_nothing_is_replaced_unasked_or_half_written(official, tmp_path, capsys):
    path = tmp_path / "vidt.safetensors"
    path.write_text("precious")
    assert main(["convert", str(official), str(path)]) == 2
    assert "exists already" in capsys.readouterr().err and path.read_text() == "precious"
    assert main(["convert", str(official), str(path), "--force", "--sha256", "0" * 64]) == 2
    assert "SHA-256 checksum" in capsys.readouterr().err and path.read_text() == "precious"
    assert main(["convert", str(official), str(path), "--force"]) == 0
    assert detkit.load(path).label_map.names[1] == "person"
    assert main(["convert", str(official), str(tmp_path / "vidt.pth")]) == 2
    assert "must end in .safetensors" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["vidt.safetensors"]


def test_other_files_are_refused_with_a_reason(official, tmp_path):
    def check(content, message):
        if isinstance(content, bytes):
            (tmp_path / "file.pth").write_bytes(content)
        else:
            torch.save(content, tmp_path / "file.pth")
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(tmp_path / "file.pth", tmp_path / "out.safetensors")

    check(save(tmp_path / "other.pth", where=pathlib.PurePosixPath("x")).read_bytes(), "unpickling.*PurePosixPath")
    check(official.read_bytes()[:-500], "is truncated or damaged")
    check(b"<!DOCTYPE html>", "is an HTML page, not weights")
    check(b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer, not the weights themselves")
    check(
        {"epoch": 3, "net": {"a": 1}},
        r"no state dict as its 'model' or 'state_dict'; the file holds 'epoch' \(int\), 'net'",
    )
    check([1, 2], "the file holds list")
    check({"model": {"conv1.weight": torch.zeros(1)}}, r"not an official state dict.*ViDT has.*it has conv1\.weight")
    with pytest.raises(ValueError, match=r"no such file: absent\.pth"):
        convert_checkpoint("absent.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_unpickling_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "touched",))

    torch.save({"model": {}, "trap": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="holds objects that are not loaded"):
        read_official(tmp_path / "trap.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_entries_and_numbers_of_numpy(tmp_path, entry):
    stored = {entry: {"a.weight": torch.ones(2)}, "best_loss": np.float64(0.5), "epoch": np.int64(3), "__author__": "x"}
    torch.save(stored, tmp_path / "file.pth")
    assert torch.equal(read_official(tmp_path / "file.pth")["a.weight"], torch.ones(2))


def test_options_of_another_model_are_refused(official, tmp_path, capsys):
    command = ["convert", str(official), str(tmp_path / "out.safetensors"), "--num-grids", "80", "64", "32", "24", "12"]
    assert main(command) == 2 and "num_grids is for SOLOv2; this is a checkpoint of ViDT" in capsys.readouterr().err


def test_a_bare_state_dict_is_taken_too(tmp_path):
    torch.save(official_state_dict(), tmp_path / "bare.pth")
    assert "class_embed.0.weight" in read_official(tmp_path / "bare.pth")


def test_models_with_masks_are_evaluated_with_masks():
    assert official_config(dict(type="ViDT"))["evaluator"]["iou_types"] == ["bbox"]
    config = official_config(dict(type="ViDT", mask_vectors=256))
    assert config["evaluator"]["iou_types"] == ["bbox", "segm"] and config["data"]["val"]["masks"] is True


def test_finetuning_a_converted_checkpoint_on_contiguous_classes(official, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    path = tmp_path / "vidt.safetensors"
    convert_checkpoint(official, path)
    model = dict(read_header(path)["config"]["model"])
    for key in ("num_classes", "criterion"):
        del model[key]
    data = dict(type="CocoDataset", annotation_file=str(folder / "boxes.json"), image_folder=str(folder))
    config = dict(
        model=model | dict(input_rule=dict(shortest=48, longest=64)),
        data=dict(train=data, batch_size=2, workers=0),
        optimizer=dict(lr=0.0),
        train=dict(epochs=1, device="cpu", tensorboard=False, init_from=str(path)),
    )
    runner = train(config, tmp_path / "run")
    assert "remapped 2 of 2 classes" in capsys.readouterr().out and runner.step == 1
    weights = official_state_dict()["class_embed.1.weight"]
    assert torch.equal(runner.model.class_embed[1].weight, weights[[1, 18]])
    assert detkit.load(tmp_path / "run" / "last.safetensors").label_map.names == ("person", "dog")


def test_the_tool_is_the_subcommand():
    script = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), "--help"]
    result = subprocess.run(script, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert result.returncode == 0 and "detkit convert" in result.stdout and "--cross-stages" in result.stdout
