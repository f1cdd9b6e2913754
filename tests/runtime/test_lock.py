import os
import signal
import time

import pytest
from processes import run_process, wait_for
from small_vidt import small_config
from tiny_matchers import tiny_cats

from detkit.cli import main
from detkit.config import format_config
from detkit.registry import ConfigError
from detkit.runtime.lock import locked
from detkit.structures import LabelMap
from detkit.studies.ablation import run_ladder
from detkit.studies.corruptions import evaluate_corruptions


def hold(folder, ready, child=False):
    with locked(folder):
        if child and os.fork() == 0:  # as a data worker, which outlives the process that made it
            time.sleep(3)
            os._exit(0)
        ready.touch()
        time.sleep(20)


def held_by(folder, ready, **options):
    process = run_process(lambda: hold(folder, ready, **options), ready.with_suffix(".log"))
    deadline = time.monotonic() + 20
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def ladder(out):
    config = dict(model=small_config(decoder_layers=1), data=dict(train=dict(type="SyntheticScenes", length=2)))
    run_ladder(config, out)


def corruptions(out):
    pairs = dict(type="SyntheticPairs", length=2, size=48, images=8)
    config = dict(data=dict(train=pairs, val=pairs), evaluator=dict(type="PCKEvaluator", alphas=[0.1]), imports=[])
    model = tiny_cats()
    model.label_map = LabelMap(("beast", "wagon", "glider", "figure"), (1, 2, 3, 4))
    evaluate_corruptions(model, config, out, weights=out / "absent.safetensors")


def test_a_folder_in_use_is_refused_until_its_holder_is_dead(tmp_path, capsys):
    process = held_by(tmp_path / "run", tmp_path / "ready", child=True)
    try:
        host = os.uname().nodename
        with (
            pytest.raises(ConfigError, match=rf"is in use by process {process} on {host} since 20.*--out"),
            locked(tmp_path / "run"),
        ):
            pass
        scenes = dict(type="SyntheticScenes", length=2, size=32)
        data, options = dict(train=scenes, val=None, batch_size=1), dict(device="cpu", epochs=1)
        config = dict(model=dict(type="SOLOv2"), data=data, train=options)
        (tmp_path / "mine.py").write_text(format_config(config))
        assert main(["train", str(tmp_path / "mine.py"), "--out", str(tmp_path / "run")]) == 2
        assert f"is in use by process {process}" in capsys.readouterr().err
        for command in ("match", "wssis"):
            assert main([command, f"{command}_quickstart", "--out", str(tmp_path / "run")]) == 2
            assert f"is in use by process {process}" in capsys.readouterr().err
        for study in (ladder, corruptions):
            with pytest.raises(ConfigError, match=rf"is in use by process {process} on"):
                study(tmp_path / "run")
    finally:
        os.kill(process, signal.SIGKILL)
        wait_for([process])
    with locked(tmp_path / "run"):  # although the child of the dead process lives on
        assert f"process {os.getpid()} " in (tmp_path / "run" / ".lock").read_text()


def test_one_process_does_not_enter_twice(tmp_path):
    with locked(tmp_path):
        for _ in range(2):
            with pytest.raises(ConfigError, match="is in use by this process"), locked(tmp_path / ".." / tmp_path.name):
                pass
    with locked(tmp_path):
        pass


def test_nothing_is_left_behind(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "a" / "b"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept.txt").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["kept.txt"]
    with pytest.raises(ConfigError, match="is a file"), locked(tmp_path / "a" / "b" / "kept.txt"):
        pass


def test_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "file" / "run", r"/file is a file; name another folder \(--out\)"),
        ("/dev/null/run", r"/dev/null/run cannot be written: Not a directory; name another folder"),
        (tmp_path / ("n" * 300), r"cannot be written: File name too long; name another folder"),
    ):
        with pytest.raises(ConfigError, match=message), locked(folder):
            pass
