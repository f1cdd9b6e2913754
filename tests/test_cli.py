"""What a user does at the command line, from a first training to drawn predictions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image

import detkit
from detkit.cli import main

TINY = """
config = dict(
    model=dict(
        type="ViDT",
        backbone=dict(type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=9,
                      pos_dim=32),
        hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64,
        input_rule=dict(shortest=64, longest=64, multiple=1),
    ),
    data=dict(
        train=dict(type="SyntheticScenes", length=8, size=64),
        val=dict(type="SyntheticScenes", length=4, seed=1, size=64),
        batch_size=4, workers=0,
    ),
    train=dict(epochs=1, draw_samples=2, device="cpu"),
)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.py").write_text(TINY)
    assert main(["train", str(folder / "tiny.py"), "--out", str(folder / "run")]) == 0
    return folder


def test_a_run_leaves_everything_behind(run):
    names = {path.name for path in (run / "run").iterdir()}
    assert {"best.safetensors", "last.safetensors", "config.py", "metrics.csv", "curves.png", "results.json"} <= names
    assert len(list((run / "run" / "samples").glob("*.png"))) == 2


def test_evaluate_by_checkpoint_and_by_config(run, capsys):
    checkpoint = run / "run" / "best.safetensors"
    assert main(["evaluate", str(checkpoint), "--out", str(run / "results.json")]) == 0
    by_checkpoint = capsys.readouterr().out
    assert "on 4 images" in by_checkpoint and "disk" in by_checkpoint
    assert json.loads((run / "results.json").read_text()) == json.loads((run / "run" / "results.json").read_text())
    assert main(["evaluate", str(run / "tiny.py"), "--run", str(run / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[1:-1] == by_checkpoint.splitlines()[1:-1]


def test_evaluate_a_config_that_was_never_trained(run, capsys):
    assert main(["evaluate", str(run / "tiny.py"), "--run", str(run / "nothing")]) == 2
    assert "train the config first" in capsys.readouterr().err


def test_predict_on_files_and_folders(run, capsys):
    images = run / "images" / "deeper"
    images.mkdir(parents=True)
    Image.new("RGB", (90, 60), "red").save(run / "images" / "a.png")
    Image.new("L", (30, 80)).save(images / "a.jpg")
    (images / "torn.jpg").write_bytes((images / "a.jpg").read_bytes()[:50])
    checkpoint, out = run / "run" / "last.safetensors", run / "drawn"
    assert main(["predict", str(checkpoint), str(run / "images"), "--out", str(out), "--min-score", "0"]) == 0
    printed = capsys.readouterr().out
    assert "in 2 images" in printed and "torn.jpg" in printed
    records = json.loads((out / "predictions.json").read_text())
    assert [Path(record["file"]).name for record in records] == ["a.png", "a.jpg"]
    assert Image.open(out / records[0]["drawn"]).size == (90, 60)
    assert Image.open(out / records[1]["drawn"]).size == (30, 80)
    found = records[0]["objects"][0]
    assert found["category_id"] in range(1, 7) and found["name"] in (
        "disk",
        "square",
        "triangle",
        "star",
        "ring",
        "cross",
    )


def test_predict_without_images_is_an_error(run, capsys):
    (run / "empty").mkdir()
    checkpoint = str(run / "run" / "last.safetensors")
    assert main(["predict", checkpoint, str(run / "empty"), "--out", str(run / "none")]) == 2
    assert main(["predict", checkpoint, str(run / "absent.jpg"), "--out", str(run / "none")]) == 2
    assert "no images" in (errors := capsys.readouterr().err) and "absent.jpg does not exist" in errors
    assert not (run / "none").exists()


def test_load_and_predict_from_python(run):
    model = detkit.load(run / "run" / "best.safetensors")
    assert not model.training and model.label_map.names[0] == "disk" and model.input_rule.shortest == 64
    image = Image.new("RGB", (50, 40))
    assert len(model.predict(image, min_score=0)[0]) == 9 * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "model.backbone.dephts=3"], "did you mean 'depths'"),
        (["--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["--set", "model.type=VitD"], "did you mean 'ViDT'"),
        (["--set", "train.epochs"], "expected path=value"),
        (["--set", "train.precision=fp64"], "train.precision: must be one of 'auto', 'bf16', 'fp32', got 'fp64'"),
    ],
)
def test_misspelt_options(run, capsys, arguments, message):
    out = run / "misspelt"
    assert main(["train", str(run / "tiny.py"), "--out", str(out), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_used_folder_is_not_overwritten(run, capsys):
    assert main(["train", str(run / "tiny.py"), "--out", str(run / "run")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_benchmark(run, capsys):
    config = str(run / "tiny.py")
    assert main(["benchmark", config, "--dry-run"]) == 0
    dry = capsys.readouterr().out
    assert "parameters of backbone" in dry and "images/s" not in dry
    arguments = ["--size", "64", "--repeats", "1", "--device", "cpu", "--json", str(run / "speed.json")]
    assert main(["benchmark", config, *arguments]) == 0
    figures = json.loads((run / "speed.json").read_text())
    assert figures["forward images/s"] > 0 and figures["GFLOPs per image"] > 0
    assert f"{figures['parameters']:,}" in dry
    capsys.readouterr()
    assert main(["benchmark", str(run / "run"), "--repeats", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "forward ms (batch 1)" in printed and "forward peak memory MB" in printed and "training" not in printed


def test_drop_layers(run, capsys):
    smaller = run / "smaller.safetensors"
    assert main(["drop-layers", str(run / "run" / "last.safetensors"), str(smaller), "--keep", "0"]) == 0
    assert "M parameters" in capsys.readouterr().out
    assert main(["evaluate", str(smaller)]) == 0


TOOLS = ("train", "evaluate", "predict", "benchmark", "convert", "drop_layers", "ablate", "wssis", "match")
TOOLS += ("split_points", "check_points", "export_scenes", "evaluate_corruptions")


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_are_the_subcommands(tool):
    name = "convert_checkpoint" if tool == "convert" else tool
    script = [sys.executable, str(ROOT / "tools" / f"{name}.py"), "--help"]
    result = subprocess.run(script, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert result.returncode == 0 and f"detkit {tool.replace('_', '-')}" in result.stdout


def test_heavy_packages_are_not_imported_by_models_losses_and_runner():
    heavy = ["cv2", "albumentations", "pycocotools", "timm", "matplotlib", "tensorboard", "torchvision"]
    code = (
        "import sys; sys.modules.update({name: None for name in %r})\n"
        "from detkit.runtime.components import import_components; import_components()\n"
        "import detkit.engine.runner, detkit.engine.hooks, detkit.vidt.convert, detkit.cli, detkit.visualize"
    )
    command = [sys.executable, "-c", code % heavy]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
