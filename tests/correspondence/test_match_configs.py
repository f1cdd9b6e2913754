"""The configs of CATs, CATs++ and MatchMe."""

import json

import numpy as np
import pytest
from PIL import Image

from detkit.cli import main
from detkit.config import load_config, resolve_config
from detkit.data.pairs.synthetic import SyntheticPairs
from detkit.engine.schedules import build_schedule
from detkit.pipelines.matchme.config import resolve, student_config
from detkit.registry import build
from detkit.runtime.components import build_model, import_components
from detkit.structures import LabelMap

PUBLISHED = ["cats_spair", "cats_pfpascal", "catspp_spair", "catspp_pfpascal", "cats_custom"]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rates_are_the_published_ones(name):
    import_components()
    config = resolve_config(load_config(name))
    optimizer, head = config["optimizer"], 3e-4 if name.startswith("catspp") else 3e-5
    assert optimizer["lr"] == head and optimizer["lr"] * optimizer["backbone_lr_scale"] == pytest.approx(3e-6)
    schedule = build_schedule(config, steps_per_epoch=10)
    factors = [schedule(10 * epoch) for epoch in (0, 69, 70, 80, 90, 99)]
    assert factors == [1, 1, 0.5, 0.25, 0.125, 0.125]
    assert (config["train"]["epochs"], optimizer["weight_decay"], optimizer["type"]) == (100, 0.05, "AdamW")
    assert [build(transform) is not None for transform in config["data"]["transforms"]] == [True] * 3


@pytest.mark.parametrize(("name", "grid", "levels"), [("cats_pfpascal", 16, 7), ("catspp_spair", 32, 30)])
def test_the_models_are_the_published_ones(name, grid, levels):
    model = build_model(load_config(name)["model"], LabelMap.numbered(20), pretrained=False)
    assert (model.grid, model.side, len(model.backbone.num_channels)) == (grid, 16 * grid, levels)
    assert any(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize("name", ["match_spair", "match_pfpascal", "match_custom"])
def test_rounds_start_from_a_valid_teacher_and_student(name):
    import_components()
    teacher, section = resolve(load_config(name))
    student = student_config(teacher, section, teacher["data"]["train"], number=1)
    names = [transform["type"] for transform in student["data"]["transforms"]]
    assert names[:3] == [transform["type"] for transform in teacher["data"]["transforms"]]
    assert names[3:] == ["KeyOut", "RandomPairWarp", "PairSwap"]
    assert [build(transform) is not None for transform in student["data"]["transforms"]] == [True] * 6


def write_folder(folder):
    """Rendered images with named key-points, as a user would keep them."""
    pairs = SyntheticPairs(6, images=8, size=48)
    (folder / "images").mkdir(parents=True)
    images, listed = [], []
    for number in range(len(pairs)):
        pair, known = pairs[number]
        ids = []
        for image, points, box in (
            (pair.source, known.source_points, known.source_box),
            (pair.target, known.target_points, known.target_box),
        ):
            ids.append(len(images) + 1)
            name = f"{ids[-1]}.png"
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / name)
            known_points = np.zeros((3, 3))
            known_points[:, :2], known_points[:, 2] = points[:3], 1
            corners = box.tolist()
            images.append(
                dict(
                    id=ids[-1],
                    file_name=name,
                    width=48,
                    height=48,
                    category_id=1,
                    bbox=[corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]],
                    keypoints=known_points.tolist(),
                )
            )
        listed.append(dict(src=ids[0], trg=ids[1]))
    categories = [dict(id=1, name="thing", keypoints=["a", "b", "c"])]
    (folder / "keypoints.json").write_text(json.dumps(dict(categories=categories, images=images)))
    for split, part in (("trn", listed[:4]), ("val", listed[4:])):
        (folder / f"pairs_{split}.json").write_text(json.dumps(dict(pairs=part)))


def test_cats_learns_from_a_folder_with_key_points(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "mine")
    monkeypatch.setenv("PAIRS_ROOT", str(tmp_path / "mine"))
    small = "model.side=64 model.grid=4 model.backbone.depth=18 model.backbone.layers=[2,4] model.appearance_dim=16"
    small += " model.heads=4 model.backbone.pretrained=None data.batch_size=2 data.workers=0 data.transforms.2.side=64"
    small += " train.max_steps=2 train.device=cpu train.tensorboard=False train.draw_samples=0"
    run = ["train", "cats_custom", "--out", str(tmp_path / "run"), "--set", *small.split()]
    assert main(run) == 0, capsys.readouterr().err
    found = tmp_path / "found.json"
    assert main(["evaluate", str(tmp_path / "run" / "last.safetensors"), "--out", str(found)]) == 0
    assert "PCK@0.1" in capsys.readouterr().out
    assert json.loads(found.read_text())[0].keys() == {"pair_id", "points", "confidence"}


def test_images_of_other_splits_stay_out_of_a_pool(tmp_path):
    import_components()
    write_folder(tmp_path)
    of_split = {
        split: dict(
            type="KeypointPairs", annotations=str(tmp_path / "keypoints.json"), pairs=str(tmp_path / f"{split}.json")
        )
        for split in ("trn", "val")
    }
    for split, ends in (("trn", [(1, 2), (3, 4), (5, 6)]), ("val", [(4, 7)])):
        content = dict(pairs=[dict(src=source, trg=target) for source, target in ends])
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    pool = build(dict(type="PairImages", pairs=of_split["trn"], without=[of_split["val"]]))
    assert [side.file.name for side in pool.sides] == ["1.png", "2.png", "3.png", "5.png", "6.png"]


def test_a_missing_folder_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PAIRS_ROOT", str(tmp_path / "nowhere"))
    assert main(["train", "cats_custom", "--out", str(tmp_path / "run")]) == 2
    assert "nowhere/keypoints.json" in capsys.readouterr().err
