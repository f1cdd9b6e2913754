"""A model and a dataset outside of the package."""

import csv

import pytest
from paths import ROOT
from PIL import Image

import detkit
from detkit.cli import main
from detkit.data.synthetic import SyntheticScenes

CONFIG = ROOT / "examples" / "own_model_config.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scenes as images and csv files, and a copy of the config that names these."""
    folder = tmp_path_factory.mktemp("own_model")
    (folder / "images").mkdir()
    for part, number, seed in (("train", 8, 0), ("val", 4, 1)):
        scenes = SyntheticScenes(number, seed=seed, size=64, masks=False)
        with open(folder / f"{part}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "x1", "y1", "x2", "y2", "name"])
            for index, (image, objects) in enumerate(scenes[i] for i in range(number)):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / "images" / f"{part}_{index}.png")
                for box, label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
                    rows.writerow([f"{part}_{index}.png", *box, scenes.label_map.names[label]])
    text = CONFIG.read_text().replace('["cat", "dog"]', str(list(scenes.label_map.names)))
    (folder / "own_model_config.py").write_text(text)
    (folder / "own_model.py").symlink_to(CONFIG.with_name("own_model.py"))
    return folder


def test_train_evaluate_predict(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    small = ["train.epochs=2", "train.device=cpu", "data.workers=0", "model.channels=16", "train.tensorboard=false"]
    assert main(["train", "own_model_config.py", "--set", *small]) == 0
    checkpoint = "runs/own_model_config/best.safetensors"
    assert main(["evaluate", checkpoint, "--import", "own_model.py"]) == 0
    assert "on 4 images" in capsys.readouterr().out
    model = detkit.load(checkpoint, imports=["own_model.py"])
    found = model.predict(["images/val_0.png", Image.new("RGB", (50, 30))], batch_size=2, min_score=0)
    assert [len(detections) > 0 for detections in found] == [True, True]
    assert found[1].boxes[:, 2].max() <= 50 and found[1].boxes[:, 3].max() <= 30


def test_an_unknown_class_is_named(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["train", "own_model_config.py", "--set", "data.train.names=['disk']", "--out", "other"]) == 2
    assert "train.csv: the class" in capsys.readouterr().err
