import copy

import pytest
import torch
from small_vidt import small_config

from detkit.checkpoints.weights import read_header, read_weights
from detkit.engine.hooks import kept_weights
from detkit.pipelines.training import check_run, run_config, stable_part, train_in, with_epochs
from detkit.registry import ConfigError
from detkit.structures import LabelMap


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


SECTION = dict(
    model=small_config(decoder_layers=1),
    data=dict(batch_size=2, workers=0),
    train=dict(max_steps=5, keep_steps=(2, 3), device="cpu", tensorboard=False),
)
SCENES = dict(type="SyntheticScenes", length=5, size=64, masks=False)


def config(**train):
    section = copy.deepcopy(SECTION)
    section["train"].update(train)
    return run_config(section, SCENES, None)


@pytest.mark.parametrize(
    ("length", "accumulate", "processes", "epochs"), [(5, 1, 1, 3), (8, 1, 2, 3), (6, 2, 1, 3), (20, 1, 1, 1)]
)
def test_epochs_follow_from_steps(length, accumulate, processes, epochs):
    given = run_config(
        {**SECTION, "train": dict(max_steps=5, accumulate=accumulate)}, {**SCENES, "length": length}, None
    )
    assert with_epochs(given, processes)["train"]["epochs"] == epochs
    assert with_epochs(config(epochs=9), processes)["train"]["epochs"] == 9


def test_too_few_images_for_a_step():
    with pytest.raises(ConfigError, match=r"data.batch_size: 6 images a step, but there are only 5"):
        with_epochs(config(), 3)


def test_weights_of_certain_steps_stay(tmp_path):
    train_in(tmp_path / "run", config())
    kept = [kept_weights(tmp_path / "run", step) for step in (2, 3)]
    assert sorted((tmp_path / "run" / "kept").iterdir()) == kept
    assert [read_header(path)["step"] for path in kept] == [2, 3]
    first, second = (read_weights(path)[0] for path in kept)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    train_in(tmp_path / "run", config())  # goes on, and finds nothing to do
    assert read_header(tmp_path / "run" / "last.safetensors")["step"] == 5
    with pytest.raises(ConfigError, match="cannot be resumed with another config"):
        train_in(tmp_path / "run", config(clip_norm=1.0))


@pytest.mark.parametrize("steps", [3, (0,), ("3",)])
def test_impossible_steps_to_keep(tmp_path, steps):
    with pytest.raises(ConfigError, match=r"train.keep_steps: must be a list, each item a whole number"):
        train_in(tmp_path / "run", config(keep_steps=steps))


def test_what_a_stage_is_known_by():
    section = dict(SECTION, optimizer=dict(lr=1))
    stable = stable_part(section)
    assert stable["data"] == dict(batch_size=2) and stable["optimizer"] == dict(lr=1)
    assert stable["train"] == dict(max_steps=5, keep_steps=(2, 3)) and "workers" in section["data"]


def test_several_processes(tmp_path, monkeypatch):
    train_in(tmp_path / "run", config(max_steps=1, keep_steps=()), processes=2)
    assert read_header(tmp_path / "run" / "last.safetensors")["step"] == 1
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command) or Failed())
    with pytest.raises(ChildProcessError, match="ended with exit code 1"):
        train_in(tmp_path / "run", config(max_steps=1, keep_steps=()), processes=2)
    assert commands[0][-1] == "--resume"


class Failed:
    returncode = 1


def test_checkpoints_of_some_epochs_only(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("detkit.engine.runner.Runner.save", lambda runner: saved.append(runner.step))
    train_in(tmp_path / "run", config(max_steps=8, checkpoint_epochs=3, keep_steps=()))
    assert saved == [6, 8]  # two steps an epoch


def test_the_warm_up_of_a_later_stage_is_compared_with_its_steps():
    """Its epochs follow from `max_steps` and data that is not there yet."""
    section = {**SECTION, "schedule": dict(type="refine_cosine", warmup_steps=3)}
    check_run(run_config(section, SCENES, None), "refine", LabelMap(("disk",), (1,)))
    section["schedule"]["warmup_steps"] = 500
    with pytest.raises(ConfigError, match=r"^refine.schedule .*: warmup_steps must be below the 5 steps of the run"):
        check_run(run_config(section, SCENES, None), "refine", LabelMap(("disk",), (1,)))
