"""Two ranks, one of which is killed or stopped."""

import os
import signal
import sys
import time

import pytest
from processes import run_ranks
from toy_run import ToyEvaluator, run_two, step_before, toy_config

import detkit.cli
from detkit.checkpoints.weights import read_weights
from detkit.config import format_config
from detkit.engine.runner import Runner, train
from detkit.engine.writers import Curves, read_metrics
from detkit.registry import ConfigError
from detkit.runtime import alive, processes
from detkit.runtime.stopping import sigterm_as_ctrl_c

SPEED = ("seconds_per_step", "images_per_second", "data_wait", "memory_gib", "seconds_left", "seconds")
CONFIG = toy_config(data__batch_size=2, train__checkpoint_every=4, train__epochs=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(alive, "BEAT", 0.05)
    monkeypatch.setattr(alive, "silent_seconds", lambda: 1)


def results(out):
    rows = [{k: v for k, v in row.items() if k not in SPEED} for row in read_metrics(out / "metrics.jsonl")]
    return rows, {name: tensor.tolist() for name, tensor in read_weights(out / "last.safetensors")[0].items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    train(toy_config(train__max_steps=1), tmp_path_factory.mktemp("imports") / "run")  # the forked ones have them then
    out = tmp_path_factory.mktemp("whole") / "run"
    codes, output = run_two(CONFIG, out)
    assert codes == [0, 0], output
    return results(out)


def at_step_10(fault):
    Runner.train_step = step_before(fault, 10)


def before_joining(fault):
    original = processes.Alive.start

    def start(signs):
        original(signs)
        fault()

    processes.Alive.start = start


def in_the_evaluation(fault):
    """The other rank computes on, for longer than torchrun would wait."""
    original = ToyEvaluator.update

    def update(evaluator, *arguments):
        original(evaluator, *arguments)
        if len(evaluator.found) == 2:
            fault()
            time.sleep(20)

    ToyEvaluator.update = update


def command(config, out, *, rank, number, place):
    """The command line of a rank; one of them sends itself a signal."""
    mine = os.environ["RANK"] == str(rank)
    place(lambda: os.kill(os.getpid(), number) if mine else None)
    path = out.with_name(f"config_{os.environ['RANK']}.py")
    path.write_text(format_config(config))
    code = detkit.cli.main(["train", str(path), "--out", str(out), "--resume"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@pytest.mark.parametrize(
    ("rank", "number", "place", "why"),
    [
        (0, signal.SIGKILL, at_step_10, "has died: it was killed"),
        (1, signal.SIGKILL, in_the_evaluation, "has died: it was killed"),
        (0, signal.SIGSTOP, before_joining, "has given no sign of life for 1 seconds: it is stopped"),
        (1, signal.SIGSTOP, at_step_10, "has given no sign of life for 1 seconds: it is stopped"),
    ],
)
def test_the_other_rank_says_which_is_lost_and_the_run_goes_on(tmp_path, undisturbed, rank, number, place, why):
    start, fault = time.monotonic(), dict(rank=rank, number=number, place=place)
    codes, output = run_two(
        CONFIG, tmp_path / "run", patience=3 if number == signal.SIGKILL else 0.3, run=command, **fault
    )
    assert codes == ([-signal.SIGKILL, 2] if rank == 0 else [2, -signal.SIGKILL]), output
    (line,) = [line for line in output.splitlines() if line.startswith("error")]
    assert f"rank {rank} (process " in line and why in line and "--resume" in line
    assert "Traceback" not in output and time.monotonic() - start < 15
    codes, output = run_two(CONFIG, tmp_path / "run", resume=True)
    assert codes == [0, 0], output
    assert results(tmp_path / "run") == undisturbed


def test_an_error_of_one_rank_is_told_by_the_other(tmp_path):
    def life():
        alive.BEAT = 0.05
        try:
            with sigterm_as_ctrl_c(), processes.distributed("cpu"):
                if processes.rank() == 1:
                    raise MemoryError
                processes.barrier()
        except ConnectionError as error:
            print(error, *error.__notes__, flush=True)
            os._exit(2)

    codes, output = run_ranks(life, tmp_path / "log")
    assert codes == [2, 1]
    assert "has ended: not enough memory: lower data.batch_size" in output and "repeat the command" in output


def test_a_rank_that_never_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(alive, "START", 1)

    def life():
        if os.environ["RANK"] == "0":
            with pytest.raises(ConnectionError, match="rank 1 did not start within 1 seconds; repeat the command"):
                processes._join("cpu")

    assert run_ranks(life, tmp_path / "log")[0] == [0, 0]


def test_the_variable_is_checked(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("DETKIT_SILENT_SECONDS", "soon")
    with pytest.raises(ConfigError, match="DETKIT_SILENT_SECONDS must be a whole number of seconds, at least 5"):
        alive.silent_seconds()
