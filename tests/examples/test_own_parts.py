"""A component outside of the package lives like those of detkit: the whole way of a user."""

import json
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from PIL import Image
from safetensors.torch import load_file

import detkit
from detkit.cli import main

PARTS = ROOT / "examples" / "own_parts.py"
CONFIG = ROOT / "examples" / "own_parts_config.py"
SMALL = ("data.train.length=16", "data.val.length=4", "data.batch_size=8", "model.backbone.channels=(16, 16, 16)")
SMALL += ("model.hidden_dim=32", "train.device=cpu", "train.tensorboard=false", "train.draw_samples=0")


def train(out, *settings, resume=False):
    command = ["train", str(CONFIG), "--out", str(out), "--set", *SMALL, *settings]
    return main([*command, "--resume"] if resume else command)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `run`, of two epochs, the second after a resume, and `photo.png`."""
    folder = tmp_path_factory.mktemp("own")
    assert train(folder / "run", "train.epochs=2", "train.max_steps=2") == 0
    assert train(folder / "run", "train.epochs=2", "data.workers=2", resume=True) == 0
    Image.new("RGB", (80, 60), "red").save(folder / "photo.png")
    return folder


def test_hook_and_imports_leave_their_traces(folder):
    assert json.loads((folder / "run" / "config.json").read_text())["imports"] == [str(PARTS)]
    epochs = [json.loads(path.read_text()) for path in sorted((folder / "run" / "epochs").iterdir())]
    assert [epoch["step"] for epoch in epochs] == [2, 4]
    assert "bbox/AP" in epochs[1]["metrics"] and epochs[1]["losses"]["loss_ce"] > 0


def test_resumed_with_other_workers_is_as_never_stopped(folder, tmp_path):
    assert train(tmp_path / "run", "train.epochs=2", "data.workers=2") == 0
    once, resumed = (load_file(path / "run" / "last.safetensors") for path in (tmp_path, folder))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in once.items())


def test_every_command_takes_the_checkpoint(folder, capsys):
    checkpoint, allow = str(folder / "run" / "last.safetensors"), ["--import", str(PARTS)]
    smaller = str(folder / "smaller.safetensors")
    assert main(["evaluate", str(CONFIG), "--run", str(folder / "run"), "--set", *SMALL]) == 0
    by_config = capsys.readouterr().out.split("results written")[0]
    assert main(["evaluate", checkpoint, *allow, "--set", "data.workers=2"]) == 0
    by_checkpoint = capsys.readouterr().out
    assert by_config.splitlines()[1:] == by_checkpoint.splitlines()[1:] and "disk" in by_config
    assert main(["drop-layers", checkpoint, smaller, "--keep", "1", *allow]) == 0
    predict = ["predict", smaller, str(folder / "photo.png"), "--out", str(folder / "drawn"), "--min-score", "0"]
    assert main([*predict, *allow]) == 0
    assert json.loads((folder / "drawn" / "predictions.json").read_text())[0]["objects"]
    assert type(detkit.load(smaller, imports=[PARTS.as_posix()]).backbone).__name__ == "TinyConvNet"


def test_benchmark(folder, capsys):
    speed = folder / "speed.json"
    arguments = ["--size", "64", "--repeats", "1", "--device", "cpu", "--json", str(speed), "--set", *SMALL]
    assert main(["benchmark", str(CONFIG), *arguments]) == 0
    assert json.loads(speed.read_text())["parameters of backbone"] > 0


def test_own_parts_are_listed(capsys):
    assert main(["list", "--import", str(PARTS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = {line.split()[1]: line.split()[0] for line in lines}
    own = ("TinyConvNet", "RandomErase", "QualityCriterion", "EpochFiles")
    assert [kinds[name] for name in own] == ["backbones", "transforms", "parts", "hooks"]


FRESH = """
import sys
import detkit
from torch.utils.data import DataLoader

checkpoint, parts = sys.argv[1:]
try:
    detkit.load(checkpoint)
except ValueError as error:
    print(error)
print("own_parts" in sys.modules)
detkit.load(checkpoint, imports=[parts])

from detkit.data.synthetic import SyntheticScenes
from detkit.data.views import TrainingView
from detkit.registry import build

erase = build(dict(type="RandomErase", probability=1.0))
view = TrainingView(SyntheticScenes(2, size=32), [erase])
loader = DataLoader(view, batch_size=None, num_workers=1, multiprocessing_context="spawn")
print(all((image == other).all() for (image, _), (other, _) in zip(loader, view)))
"""


def test_a_fresh_process_imports_only_what_it_is_told(folder):
    """Here nothing is registered yet, and a spawned data loading process finds the transform by its module's name."""
    checkpoint = str(folder / "run" / "last.safetensors")
    command = [sys.executable, "-c", FRESH, checkpoint, str(PARTS)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    message, imported, equal = result.stdout.splitlines()
    assert message.startswith(f"{checkpoint}: model.backbone: nothing is registered as 'TinyConvNet'")
    assert f"--import {PARTS} on the command line, imports=['{PARTS}'] in detkit.load" in message
    assert (imported, equal) == ("False", "True")
