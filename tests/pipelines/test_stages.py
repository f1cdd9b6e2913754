import json
import os
import pathlib
import signal

import pytest
from processes import run_process, wait_for

from detkit.pipelines.stages import StageRunner, named_files
from detkit.registry import ConfigError


def write_number(folder):
    (folder / "number.txt").write_text("1")


@pytest.fixture
def stages(tmp_path):
    lines = []
    made = StageRunner(tmp_path / "out", {"rate": 1, "file": tmp_path / "data.txt"}, total=2, say=lines.append)
    (tmp_path / "data.txt").write_text("data")
    made.lines = lines
    return made


def test_a_stage_is_done_once(stages, tmp_path):
    calls = []
    for _ in range(2):
        folder = stages.run("first", lambda folder: calls.append(write_number(folder)), inputs={"rate": 1})
    assert folder == tmp_path / "out" / "first" and len(calls) == 1
    assert stages.is_done("first") and not stages.is_done("second")
    assert "1/2 first" in stages.lines[0] and stages.lines[-1] == "== 2/2 first: complete, skipped"
    assert sorted(p.name for p in folder.iterdir()) == ["done.json", "number.txt"]
    assert json.loads((folder / "done.json").read_text())["inputs"] == {"rate": 1}
    assert "rate=1" in (tmp_path / "out" / "config.py").read_text()


def test_a_damaged_mark_is_named(stages, tmp_path):
    folder = stages.run("first", write_number, inputs={"rate": 1})
    for text in ("", "[1]", "{}"):
        (folder / "done.json").write_text(text)
        with pytest.raises(ConfigError, match=r"done.json is damaged .*: remove .*first to make it again"):
            stages.run("first", write_number, inputs={"rate": 1})


def test_other_inputs_are_an_error(stages, tmp_path):
    data = tmp_path / "data.txt"
    stages.run("first", write_number, inputs={"run": {"rate": 1}, "data": data})
    with pytest.raises(ConfigError, match=r"'first'.*\n  run.rate: 1 then, 2 now\nRemove .*first.*--out"):
        stages.run("first", write_number, inputs={"run": {"rate": 2}, "data": data})
    data.write_text("other")
    with pytest.raises(ConfigError, match=r"data: 'data.txt with sha256 .* then"):
        stages.run("first", write_number, inputs={"run": {"rate": 1}, "data": data})
    assert (tmp_path / "out" / "first" / "number.txt").exists()


def test_files_count_by_content_and_folders_by_name(stages, tmp_path):
    inputs = {"files": [tmp_path / "data.txt"], "folder": tmp_path}
    stages.run("first", write_number, inputs=inputs)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "data.txt").rename(tmp_path / "elsewhere" / "data.txt")
    stages.run("first", write_number, inputs={**inputs, "files": [moved]})
    with pytest.raises(ConfigError, match="folder"):
        stages.run("first", write_number, inputs={"files": [moved], "folder": moved.parent})


def test_files_that_a_config_names_are_found(tmp_path):
    (tmp_path / "pairs.json").write_text("[]")
    config = {"type": "KeypointPairs", "pairs": [str(tmp_path / "pairs.json")], "limit": 3, "folder": str(tmp_path)}
    assert named_files({"data": config, "name": "x" * 5000}) == [tmp_path / "pairs.json"]


def test_a_stopped_stage_goes_on(stages):
    def stop(folder):
        write_number(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run("first", stop, inputs={"rate": 1})
    assert not stages.is_done("first")
    with pytest.raises(ConfigError, match="rate: 1 then, 2 now"):
        stages.run("first", write_number, inputs={"rate": 2})
    found = []
    stages.run("first", lambda folder: found.append((folder / "number.txt").exists()), inputs={"rate": 1})
    assert found == [True] and stages.is_done("first")


def test_a_stage_that_wrote_nothing_may_begin_with_other_inputs(stages):
    def fail(folder):
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class"):
        stages.run("first", fail, inputs={"rate": 1})
    stages.run("first", write_number, inputs={"rate": 2})
    assert stages.is_done("first")


def test_foreign_folders_are_left_alone(tmp_path, stages):
    with pytest.raises(ConfigError, match=r"does not exist"):
        stages.run("first", write_number, inputs={"file": tmp_path / "nothing.json"})
    (tmp_path / "out" / "first").mkdir(parents=True)
    (tmp_path / "out" / "first" / "thesis.txt").write_text("")
    with pytest.raises(ConfigError, match="did not write"):
        stages.run("first", write_number, inputs={})
    with pytest.raises(ConfigError, match="not empty"):
        StageRunner(tmp_path / "out", {})
    with pytest.raises(ConfigError, match="is a file"):
        StageRunner(tmp_path / "data.txt", {})


def killed(out, action, marks):
    """A program of one stage that dies at a moment, and is then run again."""

    def life():
        action()
        StageRunner(out, {"rate": 1}, say=lambda line: None).run("first", write_number, inputs={"rate": 1})

    assert wait_for([run_process(life, out.with_suffix(".log"))]) == [-signal.SIGKILL]
    StageRunner(out, {"rate": 1}, say=marks.append).run("first", write_number, inputs={"rate": 1})


@pytest.mark.parametrize("name", ["os.replace", "pathlib.Path.mkdir", "pathlib.Path.unlink", "pathlib.Path.write_text"])
def test_a_program_that_died_at_any_file_goes_on(tmp_path, name):
    for number in (1, 2):
        out = tmp_path / str(number)

        def die(number=number):
            owner, attribute = {"os": os, "pathlib": pathlib.Path}[name.partition(".")[0]], name.rpartition(".")[2]
            original, calls = getattr(owner, attribute), iter(range(1, 100))

            def call_or_die(*arguments, **options):
                if next(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            setattr(owner, attribute, call_or_die)

        lines = []
        killed(out, die, lines)
        assert (out / "first" / "number.txt").read_text() == "1"
        assert sorted(p.name for p in out.rglob("*")) == ["config.py", "done.json", "first", "number.txt"]
