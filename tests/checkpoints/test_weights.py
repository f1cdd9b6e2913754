import json

import pytest
import torch
from safetensors.torch import save_file
from toy_run import ToyModel

from detkit import registry
from detkit.checkpoints.files import update_header
from detkit.checkpoints.weights import CheckpointError, load_model, read_header, read_weights, save_weights
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

LABELS = LabelMap(("cat", None, "dog"), (3, 5, 7))


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


def test_entries_of_the_header_are_replaced_and_the_tensors_stay(saved):
    model, path = saved
    before, content = read_header(path), path.read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    update_header(path, {"thresholds": {"cat": 0.25, "dög": 1}, "step": 8})
    assert read_header(path) == {**before, "thresholds": {"cat": 0.25, "dög": 1}, "step": 8}
    assert path.read_bytes().endswith(tensors)
    assert (
        load_model(path).thresholds == {"cat": 0.25, "dög": 1}
        and read_weights(path)[0].keys() == model.state_dict().keys()
    )
    update_header(path, {"thresholds": {"cat": 1.5}})
    with pytest.raises(CheckpointError, match="thresholds in its header must be a dict of class names and scores"):
        load_model(path)


def test_the_header_of_a_damaged_file_is_not_replaced(saved):
    _, path = saved
    content = path.read_bytes().replace(b"input_rule", b"input_rulE")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="header does not have its checksum"):
        update_header(path, {"step": 8})
    assert path.read_bytes() == content
