"""The benchmarks beside official code run without it, and what lets that code be imported."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(script, *arguments):
    variables = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, *script, *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_pointseg_alone():
    small = ["--size", "64", "96", "--objects", "3", "--points", "2", "--rounds", "1", "--skip-networks"]
    done = run([ROOT / "tools/benchmark_pointseg.py"], *small)
    assert done.returncode == 0, done.stderr
    names = [line.split(",")[0] for line in done.stdout.splitlines()[1:]]
    assert names == ["matrix NMS", "mask NMS", "targets", "prompts"]


def test_correspondence_alone():
    done = run([ROOT / "tools/benchmark_correspondence.py"], "--rounds", "1", "--calls", "1")
    assert done.returncode == 0, done.stderr
    figures = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines()}
    assert figures["CATs, one pair"] == ["detkit"] and float(figures["CPU ms"][0]) > 0
    assert sys.platform != "linux" or float(figures["peak MB"][0]) > float(figures["added MB"][0]) > 0


def test_a_folder_that_is_no_clone(tmp_path):
    done = run([ROOT / "tools/benchmark_pointseg.py"], "--official", tmp_path)
    assert done.returncode == 1 and "clone https://github.com/clovaai/PointWSSIS" in done.stderr


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
