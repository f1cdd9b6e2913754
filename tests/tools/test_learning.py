"""What the benchmark of learning and the table of a training step show."""

import importlib
import json
import sys

import numpy as np
import pytest
from paths import TOOLS

from detkit.config import load_config, resolve_config
from detkit.data.export import export_scenes
from detkit.runtime.components import check_components, import_components

CONFIG = """
swin = dict(type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window=4, num_tokens=4, pos_dim=16)
config = dict(
    model=dict(type="ViDT", backbone=swin, hidden_dim=16, decoder_layers=1, heads=2, ffn_dim=16, proposals=True,
               input_rule=dict(shortest=32, longest=32, multiple=1)),
    data=dict(train=dict(type="CocoDataset", annotation_file={train!r}, image_folder={images!r}),
              transforms=[dict(type="Resize", shortest=32, longest=32)], batch_size=2),
    schedule=dict(type="step", drop_epochs=[2]),
    train=dict(epochs=3, ema=0.9),
)
"""


@pytest.fixture
def tool(monkeypatch):
    """A function that imports a script of tools/ and sets its command line."""
    monkeypatch.syspath_prepend(TOOLS)

    def prepare(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return importlib.import_module(name)

    return prepare


@pytest.fixture
def scenes(tmp_path):
    """A folder with a data set of ten scenes, and a config that trains on them."""
    folder = tmp_path / "data" / "tiny"
    export_scenes(folder, train=6, val=4, size=48)
    for part in ("train", "val"):
        (folder / f"{part}.json").rename(folder / f"instances_{part}.json")
        (folder / "images" / part).rename(folder / part)
    config = tmp_path / "tiny.py"
    train, images = folder / "instances_train.json", folder / "train"
    config.write_text(CONFIG.format(train=str(train), images=str(images)), encoding="utf-8")
    return config


def test_the_parts_of_a_step(tool, scenes, capsys):
    tool("benchmark_step", scenes, "--steps", 2).main()
    rows = {line[:28].strip(): line[28:].split() for line in capsys.readouterr().out.splitlines()[1:-1]}
    assert {"data", "body", "decoder", "matching", "losses", "backward", "optimizer", "moving average"} <= rows.keys()
    step = rows.pop("step")
    assert float(step[0]) == pytest.approx(sum(float(cells[0]) for cells in rows.values()), rel=0.5)
    assert float(rows["body"][1]) > 0 == float(rows["backward"][1])


def test_trainings_end_in_a_table_and_are_not_repeated(tool, scenes, tmp_path, capsys):
    out, data = tmp_path / "out", scenes.parent / "data"
    arguments = [scenes, "--data", "tiny", "--data-folder", data, "--seeds", 7, "--out", out]
    script = tool("benchmark_learning", *arguments, "--seconds", 0.5)
    script.main()
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[0].startswith("| data | config | AP") and table[2].startswith("| tiny | tiny |")
    assert (out / "table.md").read_text().splitlines() == table and (out / "curves.png").is_file()
    file = out / "tiny" / "tiny_seed7" / "result.json"
    result, written = json.loads(file.read_text()), file.stat().st_mtime_ns
    assert 0 < result["curve"][-1]["seconds"] < 3 and result["curve"][-1]["step"] % 3 == 0
    script.main()
    assert file.stat().st_mtime_ns == written
    tool("benchmark_learning", *arguments, "--seconds", 2)
    with pytest.raises(SystemExit, match="made with another seconds"):
        script.main()


def test_changes_of_a_recipe_are_rows_of_their_own(tool, scenes, tmp_path, capsys):
    arguments = [scenes, "--data", "tiny", "--data-folder", scenes.parent / "data", "--out", tmp_path / "out"]
    tool("benchmark_learning", *arguments, "--epochs", 2, "--vary", "with_denoising").main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny")]
    assert [row[1] for row in rows] == ["tiny", "tiny with_denoising"] and [row[6] for row in rows] == ["6", "6"]
    losses = (tmp_path / "out/tiny/tiny_with_denoising_seed0/run/metrics.csv").read_text()
    assert "loss_ce_denoising" in losses
    script = tool("benchmark_learning", *arguments, "--vary", "without_everything")
    with pytest.raises(SystemExit, match="--vary: unknown without_everything; there are without_start, "):
        script.main()


@pytest.mark.parametrize("name", ["quickstart", "finetune_cpu", "finetune_lite"])
def test_every_change_fits_the_small_configs(tool, name):
    import_components()
    for change in tool("benchmark_learning").VARIANTS.values():
        config = resolve_config(change(load_config(name)))
        config["data"].update(train=None, val=None)
        check_components(config)


def test_what_is_missing_is_named(tool, tmp_path, monkeypatch):
    script = tool("benchmark_learning", "quickstart", "--data", "absent", "--data-folder", tmp_path)
    with pytest.raises(SystemExit, match=r"no file .*instances_train.json; --data-folder names"):
        script.main()
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    tool("benchmark_learning", "--peer", "yolo11n.yaml")
    with pytest.raises(SystemExit, match="ultralytics is not installed"):
        script.main()


def test_the_files_for_a_peer_have_the_boxes_or_the_outlines(tool, scenes, tmp_path):
    import_components()
    learning = tool("_learning")
    folder = scenes.parent / "data/tiny"
    files = {part: (folder / f"instances_{part}.json", folder / part) for part in ("train", "val")}
    data = {p: {"type": "CocoDataset", "annotation_file": f, "image_folder": i} for p, (f, i) in files.items()}
    boxes, outlines = (
        learning.write_yolo(data, tmp_path / str(masks), masks).parent / "labels/train" for masks in (False, True)
    )
    for file in sorted(boxes.iterdir()):
        for box, corners in zip(file.open(), (outlines / file.name).open(), strict=True):
            label, x, y, width, height = map(float, box.split())
            same_label, *values = map(float, corners.split())
            distance = np.abs(np.array(values).reshape(-1, 2) - [x, y])
            assert label == same_label and (distance <= np.array([width, height]) / 2).all()
    corners = learning.outline(np.pad(np.ones((4, 6), bool), ((2, 4), (1, 3))))  # in 10 x 10 pixels
    corners_xy = np.reshape(corners, (-1, 2))
    assert corners_xy.min(0).tolist() == [0.15, 0.25] and corners_xy.max(0).tolist() == [0.65, 0.55]
