"""What is chosen for data and device, without training."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.checkpoints.published import converted_path
from detkit.checkpoints.weights import make_header, save_weights
from detkit.config import load_config
from detkit.data.export import export_scenes
from detkit.download.published import PUBLISHED
from detkit.pipelines.finetune import start
from detkit.pipelines.finetune.data import TrainingData, is_data, name_of, prepare
from detkit.pipelines.finetune.recipe import make_config, make_room, resized, with_data
from detkit.pipelines.finetune.start import Start, choose_start, start_from
from detkit.registry import ConfigError
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def give_memory(monkeypatch, gib):
    """Let a GPU have so much memory."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gib * 2**30))


def found(sides=(), **changes):
    """Data of 40 images of 640 x 480 pixels with objects of these sides."""
    files = {part: (Path(f"{part}.json"), Path("images")) for part in ("train", "val")}
    facts = dict(source=Path("mine"), format="coco", names=["a cat"], files=files, has_masks=False, most_objects=5)
    facts |= dict(images=dict(train=40, val=10), objects=dict(train=90, val=20))
    return TrainingData(**(facts | changes), sides=[(side, 480.0, 640.0) for side in sides])


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache and no web; the cache."""
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(start, "answers", lambda url: False)
    return tmp_path / "cache"


def put_detector(name):
    """A small detector in the cache under the name of a published one."""
    model = dict(load_config("quickstart")["model"], num_classes=2, fusion=True, mask_vectors=16)
    built = build_model(model, LabelMap(("cat", "dog"), (1, 2)))
    converted_path(PUBLISHED[name]).parent.mkdir(parents=True, exist_ok=True)
    save_weights(converted_path(PUBLISHED[name]), built.state_dict(), make_header({"model": model}, built))


def test_data_are_told_from_configs(tmp_path):
    (tmp_path / "data.yaml").touch()
    assert is_data(tmp_path) and is_data("some/data.yaml") and is_data("train.json")
    assert not is_data("quickstart") and not is_data("mine.py") and not is_data({"model": {}})
    assert name_of(tmp_path / "data.yaml") == tmp_path.name and name_of("x/train.json") == "train"


def test_what_is_found_out_of_a_folder(tmp_path):
    export_scenes(tmp_path / "scenes", train=4, val=2, size=64)
    data = prepare(tmp_path / "scenes", tmp_path / "run" / "data")
    content = json.loads((tmp_path / "run" / "data" / "train.json").read_text())
    assert data.images == {"train": 4, "val": 2} and data.objects["train"] == len(content["annotations"])
    assert data.has_masks and len(data.names) == 6 and "with masks" in data.summary()
    assert data.dataset("val", masks=True)["annotation_file"] == str(tmp_path / "run" / "data" / "val.json")


def test_the_smaller_quarter_of_the_objects_decides_on_the_size(offline):
    sizes = [
        make_config(found(sides), Start("finetune_lite"), "cpu")["model"]["input_rule"]["shortest"]
        for sides in ([100] * 4, [40, 100, 100, 100], [40, 40, 100, 100], [30] * 4, [4] * 4)
    ]
    assert sizes == [256, 256, 320, 384, 512]  # 40 pixels are 21.3 in an image of 256, 26.7 in one of 320


def test_all_sizes_change_in_proportion():
    config = resized(load_config("finetune"), 640)
    assert config["model"]["input_rule"] == dict(shortest=640, longest=1072)
    (augment,) = config["data"]["transforms"]
    assert augment["shortest"][0] == 384 and augment["shortest"][-1] == 640 and augment["longest"] == 1072
    assert augment["crop_size"] == [304, 480] and "multiple" not in augment
    same = load_config("finetune_lite")
    assert resized(same, 256) is same


def test_models_get_room_for_many_objects():
    for name, holder, option in (("finetune_cpu", "model", "queries"), ("finetune_lite", "backbone", "queries")):
        model = load_config(name)["model"]
        make_room(model, 150)
        assert model[option] == 250 and model["top_k"] == 250, (name, holder)
    model = load_config("finetune")["model"]
    make_room(model, 20)
    assert "num_tokens" not in model["backbone"] and "top_k" not in model


def test_without_network_and_cache_training_starts_from_random_weights(offline):
    chosen = choose_start(CPU, masks=False)
    assert chosen.recipe == "finetune_cpu" and chosen.weights is None and "random weights" in chosen.words
    (problem,) = chosen.lacking
    assert "efficientnet_lite0 cannot be had: no answer from https://huggingface.co/" in problem
    assert f"may be put at {offline}" in problem
    config = make_config(found(), chosen, "cpu")
    assert "pretrained" not in config["model"]["backbone"] and config["train"]["init_from"] is None
    assert choose_start(CPU, masks=True).recipe == "finetune_cpu_masks"


def test_on_a_cpu_a_body_that_can_be_had_is_taken(offline, monkeypatch):
    monkeypatch.setattr(start, "why_not", lambda entry: None)
    chosen = choose_start(CPU, masks=True)
    config = make_config(found(has_masks=True), chosen, "cpu")
    assert chosen.recipe == "finetune_lite_masks" and config["data"]["train"]["masks"] is True
    assert config["model"]["backbone"]["pretrained"] == "efficientnet_lite0"
    assert config["evaluator"]["iou_types"] == ["bbox", "segm"]


@pytest.mark.parametrize(("gib", "size"), [(8, "nano"), (16, "tiny"), (32, "small"), (80, "base")])
def test_on_a_gpu_a_detector_of_its_size_is_taken(offline, monkeypatch, gib, size):
    put_detector(f"vidt_plus_swin_{size}")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": gib * 2**30})
    )
    chosen = choose_start(GPU, masks=False)
    assert chosen.weights == f"vidt_plus_swin_{size}" and chosen.lacking == []
    config = make_config(found(), chosen, "cuda")
    assert config["train"]["init_from"] == chosen.weights and "mask_vectors" not in config["model"]
    assert config["schedule"]["per_step"] is True and "num_classes" not in config["model"]


def test_what_the_cache_has_is_taken_where_the_web_is_silent(offline, monkeypatch):
    put_detector("vidt_swin_nano")
    give_memory(monkeypatch, 80)
    on_gpu, on_cpu = choose_start(GPU, masks=False), choose_start(CPU, masks=False)
    assert on_gpu.weights == on_cpu.weights == "vidt_swin_nano"
    assert "vidt_plus_swin_base cannot be had" in on_gpu.lacking[0] and on_cpu.lacking == []


def test_a_checkpoint_brings_its_model(offline):
    put_detector("vidt_plus_swin_nano")
    chosen = start_from("vidt_plus_swin_nano", masks=True)
    assert chosen.recipe == "finetune_cpu_masks" and chosen.model["mask_vectors"] == 16  # by its backbone, ConvDet
    config = make_config(found(has_masks=True), chosen, "cpu")
    assert config["model"]["input_rule"]["shortest"] == 256 and config["model"]["input_rule"]["std"]
    build_model(config["model"], LabelMap(("a cat",), (1,)))


def test_a_config_that_learns_masks_needs_them(offline):
    with pytest.raises(ConfigError, match="mine: not every object has a mask"):
        with_data(load_config("finetune_masks"), found())


def test_few_images_are_a_small_batch(offline):
    config = make_config(found(images=dict(train=3, val=1)), Start("finetune_cpu"), "cpu")
    assert config["data"]["batch_size"] == 3


def test_images_of_one_folder_alone_are_split(tmp_path):
    (tmp_path / "mine").mkdir()
    images, annotations = [], []
    for i in range(1, 6):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "mine" / f"{i}.png")
        images.append(dict(id=i, file_name=f"{i}.png", width=8, height=8))
        annotations.append(dict(id=i, image_id=i, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0))
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="Big Cat")])
    (tmp_path / "mine" / "boxes.json").write_text(json.dumps(content))
    data = prepare(tmp_path / "mine", tmp_path / "data")
    assert data.images == {"train": 4, "val": 1} and data.names == ["Big Cat"] and not data.has_masks
