import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from toy_run import run_two, toy_config

from detkit.checkpoints.resume import latest_checkpoint
from detkit.checkpoints.transfer import class_tensors, matching_outputs, transfer_weights
from detkit.checkpoints.weights import make_header, read_weights, save_weights
from detkit.config import resolve_config
from detkit.engine.runner import train
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

SWIN = dict(type="Swin", embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], window=4, num_tokens=9, pos_dim=32)
VIDT = dict(type="ViDT", hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64)
RULE = dict(shortest=48, longest=48, multiple=1)
CLASSES = ("dog", "Cat", None, "zebra")


def model_config(**changes):
    backbone = {**SWIN, **changes.pop("backbone", {})}
    return dict(VIDT, backbone=backbone, input_rule=dict(RULE), **changes)


def run_config(folder, **options):
    data = dict(type="CocoDataset", annotation_file=str(folder / "boxes.json"), image_folder=str(folder))
    return dict(
        model=model_config(),
        data=dict(train=data, val=None, batch_size=2, workers=0),
        train=dict(epochs=1, max_steps=2, draw_samples=0, device="cpu", tensorboard=False, **options),
    )


def save(path, label_map, config=None, seed=0, **rule):
    """A checkpoint of random weights."""
    torch.manual_seed(seed)
    config = {"model": config or model_config()}
    model = build_model(config["model"], label_map, {**RULE, **rule})
    save_weights(path, model.state_dict(), make_header(config, model))
    return path


@pytest.fixture(scope="module", autouse=True)
def no_curves():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four images of the classes cat, tiger and Zebra."""
    folder = tmp_path_factory.mktemp("images")
    images, annotations = [], []
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append(dict(id=i + 1, file_name=f"{i}.png", height=48, width=48))
        annotations.append(dict(id=i + 1, image_id=i + 1, category_id=5 + i % 3, bbox=[4, 6, 20, 15 + i]))
    categories = [dict(id=5 + i, name=name) for i, name in enumerate(("cat", "tiger", "Zebra"))]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "old.safetensors"
    return save(path, LabelMap(CLASSES, (1, 2, 3, 4)))


def moved(old_weights, old_map, new_map, config=None, seed=1):
    """The fresh and the initialised weights of a model for `new_map`, and what happened to them."""
    torch.manual_seed(seed)
    model = build_model(config or model_config(), new_map)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    transfer = transfer_weights(model, old_weights, old_map, class_tensors(config or model_config(), model))
    return fresh, model.state_dict(), transfer


def test_classes_match_by_name_in_any_case_but_not_without_one():
    old = LabelMap(("Cat", None, "cat", "DOG"), (0, 1, 2, 3))
    assert matching_outputs(old, LabelMap(("dog", "cat", "CAT", None, "cow"), (0, 1, 2, 3, 4))) == [3, 2, 0, None, None]


@pytest.mark.parametrize(
    "names", [("tiger", "ZEBRA", "dog"), ("zebra", "dog", "Cat", "tiger"), ("DOG", "cat", "a", "b")]
)
def test_classifier_rows_go_where_their_class_is(checkpoint, names):
    """Also with as many classes as before, where no shape tells that they are others."""
    weights, _ = read_weights(checkpoint)
    fresh, state, transfer = moved(weights, LabelMap(CLASSES, (1, 2, 3, 4)), LabelMap(names, tuple(range(len(names)))))
    rows = {name.casefold(): i for i, name in enumerate(CLASSES) if name}
    for key in (f"class_embed.{stage}.{part}" for stage in (0, 1) for part in ("weight", "bias")):
        for i, name in enumerate(names):
            expected = weights[key][rows[name.casefold()]] if name.casefold() in rows else fresh[key][i]
            assert torch.equal(state[key][i], expected), (key, name)
        assert transfer.outcomes[key] == f"remapped {len(transfer.known)} of {len(names)} classes"
    for key in state.keys() - {key for key in state if key.startswith("class_embed")}:
        assert torch.equal(state[key], weights[key]) and transfer.outcomes[key] == "kept"
    assert transfer.counts() == {"kept": len(state) - 4, "remapped": 4, "partly": 0, "new": 0, "left": 0}


def test_the_order_of_the_classes_does_not_matter(checkpoint):
    weights, _ = read_weights(checkpoint)
    old = LabelMap(CLASSES, (1, 2, 3, 4))
    _, one, _ = moved(weights, old, LabelMap(("zebra", "cat", "dog"), (0, 1, 2)))
    _, two, _ = moved(weights, old, LabelMap(("dog", "zebra", "cat"), (0, 1, 2)))
    assert all(torch.equal(one[key][[2, 0, 1]] if "class_embed" in key else one[key], two[key]) for key in one)


def test_a_box_head_is_no_classifier_of_four_classes(checkpoint):
    torch.manual_seed(0)
    config = model_config(fusion=True, token_labels=True, mask_vectors=4)
    model = build_model(config, LabelMap.numbered(4))
    random = torch.get_rng_state()
    found = class_tensors(dict(config, num_classes=4), model)
    heads = ("class_embed.0", "class_embed.1", "token_head.classes")
    assert found == {f"{head}.{part}" for head in heads for part in ("weight", "bias")}
    assert torch.equal(torch.get_rng_state(), random)


def test_the_output_for_no_object_stays_the_last():
    head = torch.nn.Linear(3, 4)
    head.label_map = LabelMap(("dog", "cow", "CAT"), (0, 1, 2))
    fresh, weights = head.weight.detach().clone(), {"weight": torch.randn(3, 3), "bias": torch.randn(9)}
    transfer = transfer_weights(head, weights, LabelMap(("cat", "dog"), (0, 1)), {"weight", "bias"})
    assert torch.equal(head.weight, torch.stack([weights["weight"][1], fresh[1], *weights["weight"][[0, 2]]]))
    assert transfer.outcomes == {"weight": "remapped 2 of 3 classes", "bias": "new (depends on the classes)"}


@pytest.mark.parametrize("tokens", [4, 20])
def test_another_number_of_det_tokens_keeps_the_first(checkpoint, tokens):
    weights, header = read_weights(checkpoint)
    old = LabelMap(**header["label_map"])
    fresh, state, transfer = moved(
        weights, old, LabelMap(("cat",), (0,)), model_config(backbone=dict(num_tokens=tokens))
    )
    both = min(9, tokens)
    for key in ("backbone.det_token", "backbone.det_pos_embed"):
        assert torch.equal(state[key][:, :both], weights[key][:, :both])
        assert torch.equal(state[key][:, both:], fresh[key][:, both:])
        assert transfer.outcomes[key] == f"partly: first {both} of 9 tokens, {tokens} here"


def test_the_table_folds_what_is_alike_and_counts_everything(checkpoint):
    weights, header = read_weights(checkpoint)
    config = model_config(ffn_dim=48, iou_aware=True, decoder_layers=2)
    fresh, state, transfer = moved(
        weights | {"old_head.weight": torch.zeros(5)}, LabelMap(**header["label_map"]), LabelMap(("cow",), (0,)), config
    )
    table = transfer.table()
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert "kept" in rows["backbone.*"] and "new" in rows["iou_embed.*"] and "left out" in rows["old_head.weight"]
    assert "new (another shape in the checkpoint)" in rows["decoder.0.linear1.*"]
    assert "new (no class in common)" in rows["class_embed.{0-1}.*"]
    assert len(rows) < 30 and "0 known, 1 new (cow)" in table
    counts = transfer.counts()
    assert sum(counts.values()) == len(state) + 1 and counts["left"] == 1
    assert sum(torch.equal(state[key], fresh[key]) for key in state) >= counts["new"]


def test_finetuning_end_to_end(tmp_path, folder, checkpoint, capsys, caplog):
    caplog.set_level(logging.WARNING)
    config = run_config(folder, init_from=str(checkpoint), ema=0.9)
    config["optimizer"] = dict(lr=0.0)
    runner = train(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"initial weights from {checkpoint}" in printed and "remapped 2 of 3 classes" in printed
    assert "classes: 2 known (cat, Zebra), 1 new (tiger)" in printed
    weights, _ = read_weights(checkpoint)
    for model in (runner.model, runner.ema.model):
        state = model.state_dict()
        for key in ("backbone.patch_embed.proj.weight", "decoder.0.linear1.bias"):
            assert torch.equal(state[key], weights[key])
        assert torch.equal(state["class_embed.1.weight"][[0, 2]], weights["class_embed.1.weight"][[1, 3]])
    assert runner.model.label_map.names == ("cat", "tiger", "Zebra")
    assert not caplog.records


def test_a_resumed_run_is_the_same_and_does_not_read_the_checkpoint_again(tmp_path, folder, checkpoint, capsys):
    copy = tmp_path / "copy.safetensors"
    shutil.copy(checkpoint, copy)
    config = run_config(folder, init_from=str(copy), checkpoint_every=1)
    whole = train(config, tmp_path / "whole").model.state_dict()
    config["train"]["max_steps"] = 1
    train(config, tmp_path / "run")
    copy.unlink()
    capsys.readouterr()
    config["train"]["max_steps"] = 2
    with pytest.raises(ConfigError, match=r"(?s)cannot be resumed with another config.*train.init_from"):
        train(config | dict(train=config["train"] | dict(init_from=None)), tmp_path / "run", resume=True)
    resumed = train(config, tmp_path / "run", resume=True)
    assert "initial weights" not in capsys.readouterr().out
    assert resumed.step == 2
    assert all(torch.equal(whole[key], tensor) for key, tensor in resumed.model.state_dict().items())
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").header["config"]["train"]["init_from"] == str(copy)


def test_a_run_that_stopped_before_its_first_checkpoint_starts_from_the_checkpoint_again(tmp_path, folder, checkpoint):
    config = run_config(folder, init_from=str(checkpoint))
    whole = train(config, tmp_path / "whole").model.state_dict()
    shutil.copytree(tmp_path / "whole", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "*.safetensors"))
    resumed = train(config, tmp_path / "run", resume=True).model.state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_all_processes_start_with_the_same_weights(tmp_path):
    config = toy_config(model=dict(type="ToyModel", batch_norm=False), train__max_steps=1)
    first = train(config, tmp_path / "first").trained_model.state_dict()
    config["train"] |= dict(init_from=str(tmp_path / "first" / "last.safetensors"), ema=0.9)
    codes, output = run_two(config | dict(optimizer=dict(lr=0.0)), tmp_path / "two")
    assert codes == [0, 0], output
    assert output.count("initial weights from") == 1
    second, _ = read_weights(tmp_path / "two" / "last.safetensors")
    assert all(torch.equal(first[key], second[key]) for key in first)
    config["train"]["init_from"] = "absent.safetensors"
    codes, output = run_two(config, tmp_path / "absent")
    assert 0 not in codes and output.count("ConfigError: train.init_from: no such file: absent.safetensors") == 2


def test_another_normalisation_is_warned_of(tmp_path, folder, caplog):
    path = save(tmp_path / "half.safetensors", LabelMap.numbered(2), mean=[0.5, 0.5, 0.5])
    runner = train(run_config(folder, init_from=str(path)), tmp_path / "run")
    assert "trained with pixel mean (0.5, 0.5, 0.5), this run uses (0.485, 0.456, 0.406)" in caplog.text
    assert runner.model.input_rule.mean == (0.485, 0.456, 0.406) and runner.model.input_rule.shortest == 48


def test_unusable_sources_are_errors_before_anything_is_written(tmp_path, folder):
    foreign, official = tmp_path / "foreign.safetensors", tmp_path / "official.pth"
    toy = {"model": dict(type="ToyModel")}
    model = build_model(model_config(), LabelMap.numbered(2))
    save_weights(foreign, {"conv.weight": torch.zeros(3, 2)}, make_header(toy, model))
    torch.save({"model": {}}, official)
    for source, message in (
        (
            str(foreign),
            r"train.init_from: nothing in .*foreign.safetensors fits the model: the checkpoint has conv",
        ),
        (str(tmp_path / "absent.safetensors"), r"train.init_from: no such file: .*absent.safetensors$"),
        (
            str(official),
            r"train.init_from: .*official.pth: is a torch file.* `detkit convert .* NEW.safetensors`$",
        ),
        ("http://127.0.0.1:9/weights.safetensors", r"train.init_from: cannot download http://127.0.0.1:9/"),
        (3, r"train.init_from: must be a text that is not empty, or None, got 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(run_config(folder, init_from=source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_changes_without_the_option(folder):
    assert resolve_config(run_config(folder))["train"]["init_from"] is None
