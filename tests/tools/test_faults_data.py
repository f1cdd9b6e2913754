"""A short run of `tools/faults.py data`."""

import subprocess
import sys

from paths import ROOT


def test_mutated_json_and_images():
    command = [sys.executable, ROOT / "tools" / "faults.py", "data", "--number", "25"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "25 cases" in done.stdout, done.stdout + done.stderr
    assert "'accepted'" in done.stdout and "'refused'" in done.stdout
