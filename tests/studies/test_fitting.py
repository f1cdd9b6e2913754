"""`detkit fit`."""

import argparse
import json

import pytest
import torch
from small_vidt import small_config

import detkit
from detkit.checkpoints.weights import make_header, save_weights
from detkit.cli import main
from detkit.cli.checkpoints import milliseconds
from detkit.data.export import export_scenes
from detkit.data.synthetic import SyntheticScenes
from detkit.registry import build
from detkit.runtime.components import import_components
from detkit.studies import fitting


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch):
    monkeypatch.setattr(fitting, "SCALES", (1.0, 0.5))
    monkeypatch.setattr(fitting, "SHARES", (1.0, 0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    import_components()
    torch.manual_seed(0)
    config = small_config(decoder_layers=2)
    model = build({**config, "num_classes": 6}).eval()
    model.label_map = SyntheticScenes(1).label_map
    save_weights(folder / "best.safetensors", model.state_dict(), make_header({"model": config}, model))
    export_scenes(folder, train=0, val=2, size=64)
    return folder


def fit(folder, latency, *options):
    arguments = ["fit", str(folder / "best.safetensors"), "--latency", latency, "--val", str(folder / "val.json")]
    return main([*arguments, "--device", "cpu", *map(str, options)])


def test_the_best_that_is_fast_enough_is_written(folder, monkeypatch, capsys):
    times = {(layers, side): layers + side for layers in range(3) for side in (64, 32)}
    monkeypatch.setattr(fitting._Study, "_time", lambda self, shape: float(times[shape.layers, shape.shortest]))
    assert fit(folder, "43ms", "--out", folder / "out") == 0
    printed = capsys.readouterr().out
    rows = json.loads((folder / "out" / "table.json").read_text())
    assert len(rows) == 2 * 2 * 2 and sum(row["chosen"] for row in rows) == 1
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen["ms"] <= 43 and chosen["ap"] == max(row["ap"] for row in rows if row["ms"] <= 43)
    assert f"| **{chosen['shortest']}** | **{chosen['layers']}** | **{chosen['objects']}** |" in printed
    assert (folder / "out" / "latency.png").read_bytes().startswith(b"\x89PNG")
    small = detkit.load(folder / "out" / "fitted.safetensors")
    assert len(small.decoder) == chosen["layers"] and small.input_rule.shortest == chosen["shortest"]
    assert fit(folder, "43ms", "--out", folder / "out") == 2
    assert "exist already" in capsys.readouterr().err


def test_where_nothing_fits_the_fastest_is_named(folder, capsys):
    assert fit(folder, "0.001ms", "--out", folder / "none") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: nothing takes at most 0.001 ms: the fastest takes " in error and "decoder layers" in error
    rows = json.loads((folder / "none" / "table.json").read_text())
    assert rows[0]["ms"] > 0 and not (folder / "none" / "fitted.safetensors").exists()
    whole = [row for row in rows if row["shortest"] == 64 and row["objects"] == 4]
    assert all(row["ap"] is not None for row in whole) and all(row["ap"] is None for row in rows if row not in whole)


def test_layers():
    assert fitting.layer_numbers(6) == [6, 3, 2, 1] and fitting.layer_numbers(0) == [0]


def test_times_on_the_command_line():
    assert [milliseconds(text) for text in ("30ms", "0.5s", "12")] == [30, 500, 12]
    for text in ("fast", "0ms", "-3ms"):
        with pytest.raises(argparse.ArgumentTypeError, match="a time such as 30ms"):
            milliseconds(text)


def test_images_that_are_nowhere(folder, tmp_path, capsys):
    (tmp_path / "val.json").write_text((folder / "val.json").read_text())
    arguments = ["fit", str(folder / "best.safetensors"), "--latency", "1s", "--val", str(tmp_path / "val.json")]
    assert main(arguments) == 2
    assert "000001.png is in none of" in capsys.readouterr().err
