"""Headers that somebody made by hand."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

from detkit.checkpoints.weights import CheckpointError, load_model, make_header, read_header, read_weights, save_weights
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

LABELS = LabelMap(("cat", None, "dog"), (3, 5, 7))


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


def file_of(tmp_path, detector, **changes):
    """A checkpoint of a small detector whose header has `changes` in its backbone."""
    path = tmp_path / "hostile.safetensors"
    config = detector | dict(backbone=detector["backbone"] | changes)
    built = build_model(detector, LABELS)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(model_args=dict(norm_layer=dict(type="SyntheticScenes"))),
            "norm_layer: a SyntheticScenes cannot be part of",
        ),
        (
            dict(model_args=dict(weights="/etc/passwd")),
            "model_args.weights: must be numbers or words in a stored model",
        ),
        (
            dict(model_args=dict(overlay=dict(file="x"))),
            "model_args.overlay: must be numbers or words in a stored model",
        ),
        (dict(model="hf-hub:a/b"), "timm has no model 'hf-hub:a/b'"),
        (dict(model="local-dir:/tmp"), "timm has no model 'local-dir:/tmp'"),
    ],
)
def test_a_header_sets_only_what_builds_a_model(tmp_path, options, message):
    with pytest.raises(ConfigError) as error:
        load_model(file_of(tmp_path, DETECTOR, **options))
    assert message in str(error.value) and "hostile.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(config=None), r"config in its header must be a config with a model that has a type.*, got None"),
        (dict(config={"model": {"type": 3}}), "config in its header must be a config with a model that has a type"),
        (dict(label_map={"names": ["a"], "category_ids": [2**70]}), r"label_map in its header must be names"),
        (dict(label_map={"names": ["a", "b"], "category_ids": [1, 1]}), r"label_map in its header must be names"),
        (dict(input_rule={"shortest": 10**9}), "input_rule in its header must be shortest, longest"),
        (dict(input_rule={"std": [1, 1, 0]}), "input_rule in its header must be shortest, longest"),
        (dict(input_rule={"std": [1, 1, 1e-299]}), "input_rule in its header must be shortest, longest"),
        (dict(input_rule={"mean": [1e299, 0, 0]}), "input_rule in its header must be shortest, longest"),
        (dict(aliases=dict(a="nothing")), "aliases in its header do not fit its tensors: a"),
        (dict(step="many"), "step in its header must be a number from 0, got 'many'"),
        (dict(metrics=[1]), "metrics in its header must be a dict of numbers"),
        (dict(schema=True), "its header has schema True, expected a number from 1"),
    ],
)
def test_a_header_of_wrong_types_is_one_line(saved, tmp_path, change, message):
    header = {**read_header(saved[1]), **change}
    del header["tensors_sha256"]
    path = tmp_path / "made.safetensors"
    weights, stored = read_weights(saved[1])
    tensors = {name: tensor for name, tensor in weights.items() if name not in stored["aliases"]}
    save_file(tensors, path, {"detkit": json.dumps(header)})
    with pytest.raises(CheckpointError, match=rf"^{path}: {message}") as error:
        load_model(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "step": ' + "9" * 5000 + "}", r"its header cannot be read \(Exceeds the limit"),
        (
            '{"schema": ' + "[" * 100_000 + "]" * 100_000 + "}",
            r"its header (cannot be read \(it is too|has lists)",
        ),
        ('{"schema": 1, "x": ' + "[" * 50 + "]" * 50 + "}", "its header has lists and dicts more than 40 levels deep"),
        ("[]", r"its header is no dict but \[\]"),
        ("{", r"its header cannot be read"),
        ('{"schema": 1}', "its header lacks config, label_map, input_rule"),
    ],
)
def test_text_that_is_no_header_is_one_line(tmp_path, text, message):
    path = tmp_path / "made.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"detkit": text})
    with pytest.raises(CheckpointError, match=rf"^{path}: {message}") as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_a_header_cannot_ask_for_all_memory(tmp_path):
    for change, why in (
        (dict(pos_dim=16_000, num_tokens=10_000), "is much larger than"),
        (dict(num_tokens=10**12), "must be a whole number"),
    ):
        with pytest.raises(ValueError, match=rf"hostile.safetensors: .*{why}"):
            load_model(file_of(tmp_path, DETECTOR, **change))
