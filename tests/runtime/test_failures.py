"""What ends a command is said in one line, with what to do."""

import itertools
import json
import os
import resource
import shutil
import signal
import sys
import threading

import pytest
import torch
from processes import run_process, wait_for
from toy_run import ToyScenes, step_before, toy_config

import detkit.cli
from detkit.config import format_config
from detkit.engine.runner import Runner, train
from detkit.engine.writers import Curves, read_metrics
from detkit.files import append_line, write_atomically
from detkit.runtime.failures import describe


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.delenv("DETKIT_TRACEBACK", raising=False)


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory):
    """The forked processes have the modules then."""
    train(toy_config(train__max_steps=1, train__tensorboard=True), tmp_path_factory.mktemp("imports") / "run")


def ended(tmp_path, spoil, **changes):
    """What `detkit train` says when something happens: its exit code and its last line."""
    (tmp_path / "toy.py").write_text(format_config(toy_config(**changes)))
    log = tmp_path / "log"

    def command():
        torch.set_num_threads(1)
        spoil()
        sys.exit(detkit.cli.main(["train", str(tmp_path / "toy.py"), "--out", str(tmp_path / "run"), "--resume"]))

    (code,) = wait_for([run_process_for_exit(command, log)])
    text = log.read_text()
    assert "Traceback" not in text, text
    return code, text.splitlines()[-1]


def run_process_for_exit(function, log):
    def run():
        try:
            function()
        except SystemExit as error:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.code)

    return run_process(run, log)


def test_a_full_disk_names_the_file_and_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files stands for the disk: PyTorch and safetensors fail in the same way."""

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    code, line = ended(tmp_path, small)
    assert code == 2 and "checkpoints/step_00000006" in line and "cannot be written" in line
    assert "ended after step 6; the same command with --resume starts it from the beginning" in line
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".")]
    assert ended(tmp_path, lambda: None)[0] == 0
    assert [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "val"] == [6, 12, 18]


def test_a_full_disk_under_tensorboard(tmp_path):
    """It writes in a thread, whose failure must have no traceback."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    original, written = RecordWriter.write, itertools.count()

    def spoil():
        def write(writer, data):
            if next(written) > 20:
                raise OSError(28, "No space left on device")
            original(writer, data)

        RecordWriter.write = write

    code, line = ended(tmp_path, spoil, train__tensorboard=True, train__log_every=1)
    assert code == 2 and line.startswith("error: the disk is full") and str(tmp_path / "run" / "tensorboard") in line
    assert ended(tmp_path, lambda: None, train__tensorboard=True, train__log_every=1)[0] == 0
    train(toy_config(train__log_every=1), tmp_path / "whole")
    rows, whole = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "whole"))
    assert [(row["step"], row.get("loss")) for row in rows] == [(row["step"], row.get("loss")) for row in whole]


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    def spoil():
        Runner.train_step = step_before(lambda: shutil.rmtree(tmp_path / "run"), 3)

    code, line = ended(tmp_path, spoil)
    assert code == 2 and line.endswith("run was removed while it ran; the same command starts it from the beginning")


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").touch()
    code, line = ended(tmp_path, lambda: None)
    assert code == 2 and line.endswith("run/checkpoints is a file where the run needs a folder: move it away")


def test_a_killed_data_worker_is_named(tmp_path):
    def spoil():
        original, main = ToyScenes.__getitem__, os.getpid()

        def killed(scenes, index):
            if os.getpid() != main and index == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(scenes, index)

        ToyScenes.__getitem__ = killed

    code, line = ended(tmp_path, spoil, data__workers=1)
    assert code == 2 and line.startswith(
        "error: a process that loads data was ended from outside, most likely for want"
    )
    assert "lower data.workers" in line and "--resume" in line


def test_what_fails_in_a_worker_has_no_traceback(tmp_path):
    def spoil():
        ToyScenes.__getitem__ = lambda scenes, index: (_ for _ in ()).throw(ValueError("7.png: cannot be read"))

    code, line = ended(tmp_path, spoil, data__workers=1, data__skip_broken=False, data__val=None)
    assert code == 2 and line.startswith("error: ") and "7.png: cannot be read" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_run_starts(tmp_path, number):
    def spoil():
        original = Runner.__init__

        def stopped(runner, *arguments):
            original(runner, *arguments)
            os.kill(os.getpid(), number)

        Runner.__init__ = stopped

    assert ended(tmp_path, spoil) == (130, "stopped")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ("GPU has not", "data.batch_size")),
        (MemoryError(), ("not enough memory", "data.batch_size")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), ("not enough memory",)),
        (RuntimeError("Unexpected bus error encountered in worker."), ("/dev/shm", "data.workers")),
        (OSError(28, "No space left on device", "x.json"), ("the disk is full", "x.json")),
        (RuntimeError("can't start new thread"), ("no further thread", "ulimit -u")),
        (OSError(24, "Too many open files"), ("ulimit -n",)),
        (RuntimeError("[gloo/pair.cc:534] Connection closed by peer [127.0.0.1]"), ("another process of this run",)),
        (ValueError("data.val: is missing"), ("data.val: is missing",)),
    ],
)
def test_foreseeable_failures_are_one_line(error, parts):
    text = describe(error)
    assert "\n" not in text and all(part in text for part in parts)


def test_mistakes_of_our_own_keep_their_traceback():
    assert describe(RuntimeError("shapes do not match")) is None and describe(KeyError("x")) is None


def test_too_little_memory_in_the_process(tmp_path):
    def spoil():
        def greedy(runner, *_):
            torch.empty(2**62, dtype=torch.uint8)

        Runner.train_step = greedy

    code, line = ended(tmp_path, spoil)
    assert code == 2 and line.startswith("error: not enough memory: lower data.batch_size")


def test_a_line_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_line(path, json.dumps({"step": 1}))

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        try:
            append_line(path, "x" * 50)
        except OSError as error:
            path.with_suffix(".error").symlink_to(str(error))  # a link needs no size

    assert wait_for([run_process(small, tmp_path / "log")]) == [0]
    assert os.readlink(path.with_suffix(".error")).startswith(f"{path} cannot be written")
    assert path.read_text() == '{"step": 1}\n'


def test_an_error_that_has_nothing_to_do_with_the_file_stays(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"):
        write_atomically(tmp_path / "a", lambda path: (_ for _ in ()).throw(RuntimeError("shapes do not match")))
    with pytest.raises(OSError, match=r"no space left to write it: '.*a'"):
        write_atomically(tmp_path / "a", lambda path: (_ for _ in ()).throw(OSError(28, "full")))
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_the_output_that_ends_is_no_success(tmp_path):
    def spoil():
        reader, writer = os.pipe()
        os.dup2(writer, 1)

        def read():
            while b"step 1/" not in os.read(reader, 4096):
                pass
            os.close(reader)

        threading.Thread(target=read, daemon=True).start()

    code, line = ended(tmp_path, spoil, train__log_every=1)
    assert code == 141 and line.startswith("stopped: nobody reads the output any more; the run in")
