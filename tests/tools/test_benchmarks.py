"""The benchmarks beside official code run without it, and what lets that code be imported."""

import argparse
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from paths import ROOT, TOOLS
from small_vidt import small_config

from detkit.checkpoints.weights import make_header, save_weights
from detkit.data.synthetic import SyntheticScenes
from detkit.registry import build
from detkit.runtime.components import import_components


def run(script, *arguments):
    variables = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, *script, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def figures_of(done):
    """The tables that a benchmark printed, by title."""
    assert done.returncode == 0, done.stderr
    tables = {}
    for line in done.stdout.splitlines():
        name, values = line[:20].strip(), line[20:].split()
        if values[-1:] in (["detkit"], ["ratio"]):
            tables[name] = figures = {}
        elif ":" not in line:
            figures[name] = [float(value.rstrip("x")) for value in values]
    return tables


def check_figures(figures):
    assert figures["CPU ms"][0] > 0
    assert sys.platform != "linux" or figures["peak MB"][0] > figures["added MB"][0] > 0


def test_pointseg_alone():
    small = ["--size", "64", "96", "--objects", "3", "--points", "2", "--rounds", "1", "--skip-networks"]
    done = run([ROOT / "tools/benchmark_pointseg.py"], *small)
    assert done.returncode == 0, done.stderr
    names = [line.split(",")[0] for line in done.stdout.splitlines()[1:]]
    assert names == ["matrix NMS", "mask NMS", "targets", "prompts"]


def test_correspondence_alone():
    done = run([ROOT / "tools/benchmark_correspondence.py"], "--rounds", "1", "--calls", "1")
    tables = figures_of(done)
    assert [*tables] == ["CATs, one pair"]
    check_figures(tables["CATs, one pair"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_training():
    done = run([ROOT / "tools/benchmark_memory.py"], "objects", "--objects", "3", "--steps", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    head, row = done.stdout.splitlines()
    assert head.split()[-1] == "3" and row.split()[0] == "now" and 200 < float(row.split()[1]) < 4000


VIDT = [ROOT / "tools/benchmark_vidt.py"]
SMALL_VIDT = ["--size", "64", "--rounds", "1", "--calls", "1"]
VIDT_CLONE = os.environ.get("OFFICIAL_VIDT")


def test_vidt_alone():
    tables = figures_of(run(VIDT, *SMALL_VIDT, "--only", "masks"))
    assert [*tables] == ["masks, 100 queries"]
    check_figures(tables["masks, 100 queries"])


@pytest.mark.parametrize("case", ["forward", "train"])
def test_what_a_process_of_the_vidt_benchmark_measures(tmp_path, monkeypatch, case):
    monkeypatch.syspath_prepend(TOOLS)
    script = importlib.import_module("benchmark_vidt")
    monkeypatch.setattr(script, "TOKENS", 8)
    options = dict(official=None, config="nano", size=64, calls=1, threads=1, folder=tmp_path)
    figures = script.measure_side(argparse.Namespace(job="detkit", only=case, **options))
    check_figures({name: [value] for name, value in figures.items()})
    assert torch.load(tmp_path / f"detkit-{case}.pt")


@pytest.mark.skipif(not VIDT_CLONE, reason="OFFICIAL_VIDT names no clone of naver-ai/vidt, branch vidt-plus")
def test_vidt_beside_the_official_code():
    done = run(VIDT, "--official", VIDT_CLONE, *SMALL_VIDT)
    assert all(len(values) == 3 for figures in figures_of(done).values() for values in figures.values())
    predictions, training, masks = (line.rpartition(": ")[2] for line in done.stdout.splitlines() if ":" in line)
    assert float(predictions) < 1e-5 and float(training) < 1e-5
    assert int(masks.split()[0]) <= 100


@pytest.mark.parametrize(
    ("name", "repository"), [("pointseg", "clovaai/PointWSSIS"), ("vidt", "naver-ai/vidt (branch vidt-plus)")]
)
def test_a_folder_that_is_no_clone(tmp_path, monkeypatch, name, repository):
    monkeypatch.syspath_prepend(TOOLS)
    script = importlib.import_module(f"benchmark_{name}")
    monkeypatch.setattr(sys, "argv", ["benchmark", "--official", str(tmp_path)])
    if name == "vidt":  # in the process that it starts for one side
        sys.argv += ["--job", "official", "--only", "masks", "--folder", str(tmp_path)]
    with pytest.raises(SystemExit, match=re.escape(f"clone https://github.com/{repository}")):
        script.main()


def test_stand_ins(tmp_path):
    (tmp_path / "heavy" / "layers").mkdir(parents=True)
    (tmp_path / "heavy" / "layers" / "real.py").write_text("from heavy.csrc import ops\nimport absent\nSIDE = 3\n")
    code = f"""
from pathlib import Path
from _official import StandIns
StandIns({{"heavy": Path({str(tmp_path / "heavy")!r}), "absent": None}}, ["heavy.layers.real"]).install()
from heavy.layers import SIDE, Other, real
from heavy.registry import REGISTRY
import absent.nn
assert SIDE == real.SIDE == 3 and real.__file__
function = REGISTRY.register()(len)
assert function is len and absent.nn.init(5) == 5 and not hasattr(Other, "__len__")
"""
    done = run(["-c", f"import sys; sys.path.insert(0, {str(ROOT / 'tools')!r})\n{code}"])
    assert done.returncode == 0, done.stderr


def test_small_detectors_alone_and_a_missing_peer():
    row = ["--only", "vidt_small_384 at 384", "--rounds", "1", "--calls", "1"]
    done = run([ROOT / "tools/benchmark_small.py"], *row)
    assert done.returncode == 0, done.stderr
    name, own, beside, ratio = done.stdout.splitlines()[1].rsplit(maxsplit=3)
    assert name.startswith("vidt_small_384") and float(own) > 0 and (beside, ratio) == ("-", "-")
    if importlib.util.find_spec("transformers") is None:
        done = run([ROOT / "tools/benchmark_small.py"], "--peer", *row)
        assert done.returncode == 1 and done.stderr.strip().endswith("pip install transformers")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_prediction(tmp_path):
    import_components()
    config = small_config(decoder_layers=1)
    model = build({**config, "num_classes": 6})
    model.label_map = SyntheticScenes(1).label_map
    save_weights(tmp_path / "small.safetensors", model.state_dict(), make_header({"model": config}, model))
    script, checkpoint = ROOT / "tools/benchmark_prediction.py", tmp_path / "small.safetensors"
    done = run([script], "memory", checkpoint, "--images", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["1", "images"], ["2", "images"]]
