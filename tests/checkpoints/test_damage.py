"""Files that were damaged, that hold no finite weights, or that are something else."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import detkit
from detkit.checkpoints.weights import CheckpointError, load_model, read_header, read_weights, save_weights
from detkit.cli import main
from detkit.structures import LabelMap

LABELS = LabelMap(("cat", None, "dog"), (3, 5, 7))


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
