import atexit
import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT, TOOLS
from processes import run_process, wait_for

import detkit.__main__
from detkit.runtime.stopping import exit_at_once_on_signals, sigterm_as_ctrl_c

KILLING_FINDER = """
import os, signal, sys
class Kill:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.{number})
            except KeyboardInterrupt:
                raise ImportError("as C code may make of it")
sys.meta_path.insert(0, Kill())
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("name", ["detkit.cli.parser", "torch"])
def test_a_signal_while_modules_are_imported(tmp_path, number, name):
    (tmp_path / "sitecustomize.py").write_text(KILLING_FINDER.format(name=name, number=number))
    command = [sys.executable, str(TOOLS / "evaluate.py"), str(tmp_path / "absent.safetensors")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (130, "stopped\n", "")


def test_a_rank_that_torchrun_ends_while_it_starts(tmp_path):
    def started():
        exit_at_once_on_signals()
        os.kill(os.getpid(), signal.SIGTERM)

    log = tmp_path / "log"
    assert wait_for([run_process(started, log, TORCHELASTIC_RUN_ID="none")]) == [130]
    assert log.read_text().startswith(
        "stopped by torchrun at its start: if a rank was lost, torchrun's report names it"
    )


def test_elsewhere_a_signal_is_an_exception_that_tidies_up(tmp_path):
    def stopped():
        for number in (signal.SIGINT, signal.SIGTERM):
            with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
                os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    assert wait_for([run_process(stopped, tmp_path / "log")]) == [0], (tmp_path / "log").read_text()


def test_a_rank_ends_without_the_interpreters_tidying_up(tmp_path, monkeypatch):
    def rank():
        atexit._clear()  # those of the test session
        atexit.register(lambda: print("exit handler"))
        monkeypatch.setattr("detkit.cli.main", lambda words: print("worked") or 3)
        detkit.__main__.run("train")
        print("went on")

    log = tmp_path / "log"
    assert wait_for([run_process(rank, log, WORLD_SIZE="2")]) == [3]
    assert log.read_text().splitlines() == ["worked", "exit handler"]
