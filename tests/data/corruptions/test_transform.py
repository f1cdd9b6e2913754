"""Corruptions of images, the dataset that applies them, and the command that evaluates on them."""

import csv
import json

import numpy as np
import pytest
import torch
from paths import TOOLS
from tiny_matchers import tiny_cats

from detkit.checkpoints.weights import make_header, save_weights
from detkit.cli import main
from detkit.config import resolve_config
from detkit.data.corruptions.transform import CORRUPTIONS, SEVERITIES, corrupt
from detkit.data.drawing import paint
from detkit.registry import ConfigError, build
from detkit.runtime.components import build_model, import_components
from detkit.structures import LabelMap
from detkit.studies.corruptions import table_rows


@pytest.fixture(scope="module")
def picture():
    """A textured picture [3, 72, 96]."""
    rng = np.random.default_rng(0)
    canvas = paint(rng, 72, 96, 30 + 195 * rng.random(3, dtype=np.float32), contrast=60)
    canvas[:, 20:50, 30:70] = np.array([200, 60, 40])[:, None, None]
    return torch.from_numpy(np.clip(canvas, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_at_every_severity(picture, name):
    before, worse = picture.clone(), []
    for severity in SEVERITIES:
        one, again, other = (corrupt(picture, name, severity, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert one.shape == picture.shape and one.dtype == torch.uint8 and one.is_contiguous()
        assert torch.equal(one, again)
        random = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
        assert torch.equal(one, other) != random
        worse.append((one.float() - picture.float()).abs().mean().item())
    assert worse[0] > 0.2
    # The first severities of one move whole regions, the first of the other only adds light.
    if name not in ("elastic_transform", "frost"):
        assert worse[-1] > worse[0]
    assert torch.equal(picture, before)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 9)])
def test_small_images_can_be_corrupted(size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    for name in CORRUPTIONS:
        assert corrupt(image, name, 5, np.random.default_rng(0)).shape == image.shape


def test_noise_has_the_published_strength():
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)

    def values(name, severity):
        return corrupt(grey, name, severity, np.random.default_rng(0)).double() / 255

    assert values("gaussian_noise", 1).std() == pytest.approx(0.08, rel=0.03)
    assert values("shot_noise", 2).std() == pytest.approx((0.502 / 25) ** 0.5, rel=0.03)
    changed = values("impulse_noise", 4) != 128 / 255
    assert changed.double().mean() == pytest.approx(0.17, abs=0.01)
    assert values("contrast", 5).std() == 0 and values("brightness", 3).mean() == pytest.approx(0.802, abs=0.01)
    dot = torch.zeros(3, 61, 61, dtype=torch.uint8)
    dot[:, 30, 30] = 255
    rows = corrupt(dot, "defocus_blur", 3, np.random.default_rng(0))[0].any(0).nonzero()
    assert rows.min() >= 23 and rows.max() <= 37  # radius 6 and a pixel of soft edge
    half = torch.zeros(3, 40, 40, dtype=torch.uint8)
    half[:, :, 20:] = 255
    glass = corrupt(half, "glass_blur", 1, np.random.default_rng(0))
    assert glass[:, :, :10].eq(0).all() and glass[:, :, 30:].eq(255).all() and not torch.equal(glass, half)


def test_corrupted_pairs_keep_points_and_repeat():
    import_components()
    pairs = dict(type="SyntheticPairs", length=3, images=8, size=48)
    clean = build(pairs)
    corrupted = build(dict(type="CorruptedPairs", dataset=pairs, corruption="shot_noise", severity=3))
    assert len(corrupted) == 3 and corrupted.label_map == clean.label_map and corrupted.image_ids == clean.image_ids
    (images, known), (again, _), (before, expected) = corrupted[1], corrupted[1], clean[1]
    assert torch.equal(images.source, again.source) and not torch.equal(images.source, before.source)
    assert torch.equal(known.source_points, expected.source_points) and known.pair_id == expected.pair_id
    noise = [images.source.int() - before.source.int(), images.target.int() - before.target.int()]
    assert not torch.equal(*noise)
    with pytest.raises(ConfigError, match="did you mean 'snow'"):
        build(dict(type="CorruptedPairs", dataset=pairs, corruption="snows", severity=3))
    with pytest.raises(ConfigError, match=r"severity: must be one of 1, 2, 3, 4, 5"):
        build(dict(type="CorruptedPairs", dataset=pairs, corruption="snow", severity=0))


def test_the_table_has_means_over_severities_and_their_ratio_to_clean():
    cells = {("clean", 0): 0.8, ("fog", 1): 0.6, ("fog", 2): 0.4, ("snow", 1): 0.2, ("snow", 2): 0.0}
    clean, fog, snow, mean = table_rows({cell: {"PCK@0.1": value, "other": 0} for cell, value in cells.items()})
    assert (clean["mean"], clean["ratio"]) == (80, 1)
    assert (fog["1"], fog["2"], fog["mean"]) == (60, 40, 50) and fog["ratio"] == pytest.approx(0.625)
    assert snow["corruption"] == "snow" and mean["mean"] == pytest.approx(30) and mean["1"] == pytest.approx(40)


@pytest.fixture
def checkpoint(tmp_path):
    """A matcher with random weights that knows its data."""
    tiny_cats()  # registers its backbone
    model = dict(type="CATs", backbone=dict(type="TinyLayers"), side=64, grid=4, appearance_dim=16, heads=4)
    pairs = dict(type="SyntheticPairs", length=2, images=8, size=48)
    config = dict(
        model=model,
        data=dict(train=pairs, val=dict(pairs, seed=1), batch_size=2, eval_batch_size=2, workers=0),
        evaluator=dict(type="PCKEvaluator"),
        train=dict(epochs=1),
    )
    matcher = build_model(model, LabelMap(("beast", "wagon", "glider", "figure"), (1, 2, 3, 4)))
    path = tmp_path / "matcher.safetensors"
    save_weights(path, matcher.state_dict(), make_header(resolve_config(config), matcher))
    return path


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_the_command_writes_tables_and_goes_on_where_it_stopped(checkpoint, tmp_path, capsys):
    out = tmp_path / "corruptions"
    command = ["evaluate-corruptions", str(checkpoint), "--out", str(out), "--severities", "1", "5", "--corruptions"]
    assert main([*command, "fog"]) == 0
    first = capsys.readouterr().out
    assert "clean : PCK@0.1" in first and "fog 5: PCK@0.1" in first
    assert main([*command, "fog", "contrast"]) == 0
    second = capsys.readouterr().out
    assert "contrast 1: PCK@0.1" in second and "fog 5: PCK@0.1" not in second
    with open(out / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [(row["corruption"], row["severity"]) for row in rows]
    assert cells == [("clean", "0"), ("fog", "1"), ("fog", "5"), ("contrast", "1"), ("contrast", "5")]
    assert {"PCK@0.1", "PCK@0.1/point", "PCK@0.05"} <= set(rows[0])
    assert "| corruption | 1 | 5 | mean | ratio |" in (out / "table.md").read_text()
    assert (out / "table.csv").read_text().startswith("corruption,1,5,mean,ratio\nclean,")
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_other_data_or_weights_are_not_mixed(checkpoint, tmp_path, capsys):
    out = tmp_path / "corruptions"
    command = ["evaluate-corruptions", str(checkpoint), "--out", str(out), "--corruptions", "contrast"]
    command += ["--severities", "1"]
    assert main(command) == 0
    assert main([*command, "--set", "data.val.seed=2"]) == 2
    assert "holds figures of other val: choose another folder" in capsys.readouterr().err
    assert json.loads((out / "settings.json").read_text())["val"]["seed"] == 1
    assert main([*command[:4], "--corruptions", "mist"]) == 2
    assert "unknown corruption 'mist'" in capsys.readouterr().err


def test_the_script_is_the_command():
    script = TOOLS / "evaluate_corruptions.py"
    assert 'run("evaluate-corruptions")' in script.read_text()
