import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_run import ToyModel, toy_config

import detkit
from detkit import registry
from detkit.checkpoints.weights import CheckpointError, load_model, make_header, read_header, read_weights, save_weights
from detkit.cli import main
from detkit.config import resolve_config
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

LABELS = LabelMap(("cat", None, "dog"), (3, 5, 7))


@pytest.fixture
def saved(tmp_path):
    config = resolve_config(toy_config(model=dict(type="ToyModel", pretrained=None, dropout=0.3)))
    model = build_model(config["model"], LABELS)
    config["model"]["pretrained"] = "weights-that-are-gone.pth"
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), make_header(config, model, metrics={"AP": 0.5}, step=7))
    return model, path


def test_a_file_rebuilds_its_model(saved):
    model, path = saved
    loaded = load_model(path)
    assert isinstance(loaded, ToyModel) and not loaded.training
    assert loaded.dropout.p == 0.3 and loaded.label_map == LABELS and loaded.input_rule == model.input_rule
    for (name, expected), (other, tensor) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(expected, tensor)
    assert loaded.heads[0].weight is loaded.heads[1].weight


def test_the_header_describes_the_file(saved):
    header = read_header(saved[1])
    assert header["metrics"] == {"AP": 0.5} and header["step"] == 7 and header["schema"] == 1
    assert header["label_map"] == LABELS.to_dict() and header["config"]["model"]["type"] == "ToyModel"
    assert set(header["versions"]) == {"detkit", "torch", "python"}
    assert header["aliases"] == {"heads.1.weight": "heads.0.weight", "heads.1.bias": "heads.0.bias"}


def test_views_and_empty_tensors_survive(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    weights = {"base": base, "same": base, "part": base[1], "turned": base.t(), "flat": base.view(-1)}
    weights |= {"none": torch.zeros(0, 3), "also_none": torch.zeros(0, 3)}
    save_weights(tmp_path / "a.safetensors", weights, {})
    read, header = read_weights(tmp_path / "a.safetensors")
    assert header["aliases"] == {"same": "base"}
    assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)


def test_bad_files(saved, tmp_path):
    _, path = saved
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "absent.safetensors")
    content = path.read_bytes()
    for cut in (0, 5, 500, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=r"cut.safetensors: is truncated or not a safetensors file"):
            load_model(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="not a detkit checkpoint"):
        load_model(tmp_path / "foreign.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "new.safetensors", {"detkit": json.dumps({"schema": 99})})
    with pytest.raises(CheckpointError, match="schema 99, this detkit reads up to 1"):
        load_model(tmp_path / "new.safetensors")


def flipped(content, position, bit):
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(saved, tmp_path):
    model, path = saved
    content, changed = path.read_bytes(), tmp_path / "changed.safetensors"
    random = np.random.default_rng(0)
    outcomes = []
    for position in random.integers(0, len(content), 150):
        changed.write_bytes(flipped(content, position, random.integers(8)))
        try:
            weights = load_model(changed).state_dict()
        except ValueError as error:
            assert isinstance(error, CheckpointError) and str(changed) in str(error) and "\n" not in str(error)
            outcomes.append("refused")
        else:
            assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
            outcomes.append("harmless")
    assert outcomes.count("refused") > 140


def test_altered_tensors_and_headers_are_told_apart(saved, tmp_path):
    content, changed = saved[1].read_bytes(), tmp_path / "changed.safetensors"
    changed.write_bytes(flipped(content, len(content) - 1, 0))
    with pytest.raises(CheckpointError, match=r"changed.safetensors: the tensors do not have their checksum: the file"):
        load_model(changed)
    assert read_header(changed)["step"] == 7
    changed.write_bytes(content.replace(b"0.3", b"0.2", 1))
    with pytest.raises(CheckpointError, match=r"changed.safetensors: the header does not have its checksum"):
        load_model(changed)
    changed.write_bytes(content.replace(b"detkit_sha256", b"detkit_sha257", 1))
    with pytest.raises(CheckpointError, match=r"changed.safetensors: the checksum of the header is missing"):
        load_model(changed)


def test_older_files_without_checksums_load_with_a_notice(saved, tmp_path, caplog):
    _, path = saved
    weights, header = read_weights(path)
    del header["tensors_sha256"]
    stored = {name: tensor for name, tensor in weights.items() if name not in header["aliases"]}
    save_file(stored, tmp_path / "old.safetensors", {"detkit": json.dumps(header)})
    assert caplog.text == ""
    assert load_model(tmp_path / "old.safetensors").label_map == LABELS
    assert "old.safetensors was written before checkpoints had checksums" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved, tmp_path, value, capsys):
    weights, header = read_weights(saved[1])
    weights["backbone.0.weight"][0] = value
    path = tmp_path / "failed.safetensors"
    save_weights(path, weights, header)
    with pytest.raises(CheckpointError, match=r"failed.safetensors: 1 of 11 tensors have .* \(backbone.0.weight\)"):
        load_model(path)
    for command in (["predict", str(path), str(tmp_path), "--out", str(tmp_path / "out")], ["evaluate", str(path)]):
        assert main([*command, "--device", "cpu"]) == 2
        assert "have values that are NaN or infinite (backbone.0.weight)" in capsys.readouterr().err


def test_the_folder_of_a_run_means_its_best_weights(saved, tmp_path, capsys):
    _, path = saved
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"run holds no best.safetensors or last.safetensors"):
        detkit.load(run)
    weights, header = read_weights(path)
    for step, name in enumerate(("checkpoints/step_1.safetensors", "last.safetensors", "best.safetensors")):
        save_weights(run / name, weights, {**header, "step": step})
        assert read_header(run)["step"] == step and detkit.load(str(run), "auto").label_map == LABELS
    for source in (run, path):
        assert main(["benchmark", str(source), "--dry-run", "--device", "cpu"]) == 0
        assert "parameters" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--device", "cpu", "--set", "data.val.length=2", "data.workers=0"]) in (0, 2)
    assert f"{run / 'best.safetensors'} on 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "is a git-lfs pointer, not the weights"),
        (b"<!DOCTYPE html><html></html>", "is an HTML page, not weights"),
        (b"", "is truncated or not a safetensors file"),
        (
            b"PK\x03\x04",
            "is a torch file, not a detkit checkpoint; official ones become checkpoints by `detkit convert",
        ),
        (b"\x80\x02", "is a torch file, not a detkit checkpoint"),
    ],
)
def test_other_files_are_named_as_what_they_are(tmp_path, content, message, capsys):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    for command in (["predict", str(path), str(tmp_path), "--out", str(tmp_path / "out")], ["evaluate", str(path)]):
        assert main(command) == 2
        shown = capsys.readouterr().err
        assert f"{path}: {message}" in shown and "weights_only" not in shown and shown.count("\n") == 1


def test_weights_that_do_not_fit_are_listed(saved, tmp_path):
    weights, header = read_weights(saved[1])
    del weights["heads.0.bias"]
    weights |= {"extra": torch.zeros(1), "backbone.0.bias": torch.zeros(3)}
    save_weights(tmp_path / "bad.safetensors", weights, header)
    with pytest.raises(CheckpointError) as error:
        load_model(tmp_path / "bad.safetensors")
    for text in ("missing: heads.0.bias", "unexpected: extra", "backbone.0.bias: (3,) in the file, (8,) in the model"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        (["a.py", "b"], "--import a.py --import b on the command line, imports=['a.py', 'b'] in detkit.load"),
        ([], "made without imports; name the module or file that registers this: --import MODULE_OR_FILE on"),
    ],
)
def test_an_unknown_component_is_named_with_the_imports_of_the_file(saved, tmp_path, monkeypatch, imports, message):
    weights, header = read_weights(saved[1])
    path = tmp_path / "own.safetensors"
    save_weights(path, weights, {**header, "config": {**header["config"], "imports": imports}})
    monkeypatch.delitem(registry._components, "ToyModel")
    monkeypatch.delitem(registry._origins, "ToyModel")
    with pytest.raises(CheckpointError, match=r"own\.safetensors: model: nothing is registered as 'ToyModel'") as error:
        load_model(path)
    assert message in str(error.value)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    _, path = saved
    before = path.read_bytes()
    monkeypatch.setattr("detkit.files._sync", lambda path, access: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_number_of_classes_must_agree():
    assert len(build_model(dict(type="ToyModel", num_classes=3), LABELS).label_map) == 3
    with pytest.raises(ConfigError, match=r"model\.num_classes: is 80, but the data has 3 classes"):
        build_model(dict(type="ToyModel", num_classes=80), LABELS)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A pickle that leaves a file behind when it is read, and a `torch.load` that would read it."""
    path, mark = tmp_path / "trap.pth", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(str(mark))))
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: load(*args, **options | dict(weights_only=False)))
    return path, mark


class Trap:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (self.mark, "w")


def file_of(tmp_path, model, **changes):
    """A checkpoint of a small detector whose header has `changes` in its backbone."""
    path = tmp_path / "hostile.safetensors"
    config = model | dict(backbone=model["backbone"] | changes)
    built = build_model(model, LABELS)
    save_weights(path, built.state_dict(), make_header(dict(model=config), built))
    return path


FEATURES = dict(type="TimmFeatures", model="test_resnet", num_tokens=5, pos_dim=32)
DETECTOR = dict(type="ViDT", backbone=FEATURES, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64)


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_no_argument_in_a_header_makes_timm_read_a_file(tmp_path, trap, name):
    path, mark = trap
    value = dict(file=str(path)) if name.startswith("pretrained") else str(path)
    options = dict(model_args={name: value, "pretrained": True}, pretrained=str(path))
    assert len(load_model(file_of(tmp_path, DETECTOR, **options)).label_map) == 3
    assert not mark.exists()


def test_a_part_in_a_header_is_no_dataset_and_no_other_checkpoint(tmp_path, saved):
    for part in (dict(type="Checkpoint", path=str(saved[1])), dict(type="ImageList", annotations="/etc/passwd")):
        path = file_of(tmp_path, DETECTOR, model_args=dict(norm_layer=part))
        with pytest.raises(ConfigError, match=rf"norm_layer: a {part['type']} reads files and cannot be part of"):
            load_model(path)
