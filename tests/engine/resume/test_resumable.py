"""Runs that died, at whatever moment, and what may have changed when they go on."""

import hashlib
import json
import os
import shutil
import signal

import pytest
import torch
from processes import run_process, wait_for
from toy_run import ToyEvaluator, toy_config

from detkit.checkpoints.resume import latest_checkpoint
from detkit.checkpoints.weights import CheckpointError, read_header, read_weights, save_weights
from detkit.engine.guard import NonFiniteError
from detkit.engine.runner import Runner, train
from detkit.engine.writers import Curves, DrawSamples, read_metrics
from detkit.registry import ConfigError

SPEED = ("seconds_per_step", "images_per_second", "data_wait", "memory_gib", "seconds_left", "seconds")


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def rows(out):
    return [{k: v for k, v in row.items() if k not in SPEED} for row in read_metrics(out / "metrics.jsonl")]


def assert_same(first, second):
    """Whether two finished runs have the same weights, bit for bit, and the same rows."""
    for name in ("best.safetensors", "last.safetensors"):
        one, two = (read_weights(out / name)[0] for out in (first, second))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), name
        assert read_header(first / name)["metrics"] == read_header(second / name)["metrics"]
    assert rows(first) == rows(second)
    assert (first / "metrics.csv").read_text().count("\n") == (second / "metrics.csv").read_text().count("\n")
    assert not list(second.rglob(".*"))  # neither a lock nor temporary files


def die_at(number):
    """Die by SIGKILL before the `number`-th file is put in its place."""
    replace, calls = os.replace, iter(range(1, 1000))

    def replace_or_die(*paths):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = replace_or_die


def test_death_at_every_file(tmp_path):
    """The same command goes on, wherever the process dies between the files that it writes."""
    torch.set_num_threads(1)
    config = toy_config(data__train=dict(type="ToyScenes", length=8), train__epochs=2, train__log_every=3)
    config["train"]["ema"] = 0.9
    train(config, tmp_path / "whole", resume=True)  # there is no folder yet: from the beginning
    for number in range(1, 100):
        out = tmp_path / str(number)

        def life(out=out, number=number):
            die_at(number)
            train(config, out, resume=True)

        if wait_for([run_process(life, out.with_suffix(".log"))]) == [0]:
            break
        train(config, out, resume=True)
        assert_same(tmp_path / "whole", out)
    assert number > 15  # configs, rows, two checkpoints and evaluations, the best and last weights


@pytest.mark.parametrize("left", [["config.py"], ["config.py", ".config.json.77.tmp"], [".config.py.77.tmp"], []])
def test_what_a_dead_start_leaves_is_no_hindrance(tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    train(toy_config(train__max_steps=1, data__val=None), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "last.safetensors").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".config.py.77.tmp").write_text("half")
    train(toy_config(train__max_steps=1, data__val=None), tmp_path / "other")


def test_a_signal_within_an_interval_changes_no_row(tmp_path, monkeypatch):
    config = toy_config(train__log_every=5)
    train(config, tmp_path / "whole")
    original = Runner.train_step

    def interrupted(runner, *arguments):
        original(runner, *arguments)
        if runner.step in (3, 9, 12):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Runner, "train_step", interrupted)
    while train(config, tmp_path / "parts", resume=True).interrupted:
        pass
    assert_same(tmp_path / "whole", tmp_path / "parts")


class Cancelled(Exception):
    pass


def test_what_fails_in_the_evaluation_costs_no_training(tmp_path, monkeypatch):
    train(toy_config(), tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(ToyEvaluator, "results", lambda evaluator: (_ for _ in ()).throw(Cancelled))
        train(toy_config(), tmp_path / "run")
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").trainer["epoch"] == 1
    train(toy_config(), tmp_path / "run", resume=True)
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_mistakes_of_the_evaluation_show_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "train_step", lambda *_: pytest.fail("a step was done"))
    for changes, message in (
        (dict(train__best_metric="bbox/mAP"), r"train.best_metric: no figure is called 'bbox/mAP'. Valid: AP, images"),
        (dict(evaluator=dict(type="CocoEvaluator", iou_types=["mask"])), r"evaluator.iou_types: must be a list"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(toy_config(**changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_masks_that_the_model_does_not_find_are_missed_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "train_step", lambda *_: pytest.fail("a step was done"))
    scenes = dict(type="SyntheticScenes", length=4, size=32, masks=True)
    segm = dict(type="CocoEvaluator", iou_types=["segm"])
    with pytest.raises(ConfigError, match=r"evaluator: detections of image \d+ have no masks, which iou_types 'segm'"):
        train(toy_config(data__train=scenes, data__val=scenes, evaluator=segm), tmp_path / "run")


def test_the_evaluation_may_change_when_a_run_goes_on(tmp_path, capsys):
    train(toy_config(train__epochs=1), tmp_path / "run")
    worse = read_header(tmp_path / "run" / "best.safetensors")["metrics"]["AP"]
    other = toy_config(evaluator=dict(type="ToyEvaluator", scale=9.0), train__best_metric="AP")
    runner = train(other, tmp_path / "run", resume=True)
    assert "the evaluation is another one than before" in capsys.readouterr().out
    assert runner.best["value"] == max(r["AP"] for r in rows(tmp_path / "run") if r["kind"] == "val") < worse
    assert [r["step"] for r in rows(tmp_path / "run") if r["kind"] == "val"] == [6, 12, 18]


def test_other_classes_and_images_are_refused_with_a_way_out(tmp_path, monkeypatch):
    from toy_run import ToyScenes

    from detkit.structures import LabelMap

    train(toy_config(train__epochs=1), tmp_path / "run")
    original = ToyScenes.__init__

    def renamed(scenes, *arguments, **options):
        original(scenes, *arguments, **options)
        scenes.label_map = LabelMap(("cat", "wolf"), (3, 7))

    def grown(scenes, length=24, **options):
        original(scenes, length + 1, **options)

    for changed, message in (
        (renamed, r"data.train has other classes than before: id 7 was 'dog' and is 'wolf'; restore data.train, or"),
        (grown, r"was written with 24 training images, this run has 25 .*--out OTHER_FOLDER --set train.init_from="),
    ):
        monkeypatch.setattr(ToyScenes, "__init__", changed)
        with pytest.raises(CheckpointError, match=message):
            train(toy_config(), tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_promises_no_checkpoint(tmp_path):
    """The command in the message works, with and without a checkpoint."""
    from detkit.cli import main

    config = toy_config(data__train=dict(type="ToyScenes", bad_image=3))
    for out, every in ((tmp_path / "without", None), (tmp_path / "with", 1)):
        with pytest.raises(NonFiniteError) as error:
            train({**config, "train": {**config["train"], "checkpoint_every": every, "seed": 1}}, out)
        command = str(error.value).split("detkit replay ")[1].split()
        has_checkpoint = latest_checkpoint(out / "checkpoints") is not None
        assert has_checkpoint == ("there is no checkpoint yet" not in str(error.value))
        assert main(["replay", *command]) == 1


def test_a_signal_during_evaluation_or_drawing_ends_as_one_in_training(tmp_path, monkeypatch):
    train(toy_config(), tmp_path / "whole")
    update = ToyEvaluator.update

    def interrupted(evaluator, *arguments):
        update(evaluator, *arguments)
        if len(evaluator.found) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ToyEvaluator, "update", interrupted)
        runner = train(toy_config(), tmp_path / "run")
    assert runner.interrupted and (runner.step, runner.evaluated_at) == (6, None)
    assert not train(toy_config(), tmp_path / "run", resume=True).interrupted
    assert_same(tmp_path / "whole", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(DrawSamples, "after_train", lambda hook, runner: os.kill(os.getpid(), signal.SIGTERM))
        assert train(toy_config(train__draw_samples=1), tmp_path / "run", resume=True).interrupted


def test_a_damaged_config_is_named(tmp_path):
    train(toy_config(train__max_steps=2), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ConfigError, match=r"config.json: is damaged"):
        train(toy_config(train__max_steps=2), tmp_path, resume=True)


WRONG = {
    "step": "five",
    "epoch": -1,
    "position": 99,
    "metrics": {"AP": "high"},
    "best": {"value": 1.0},
    "optimizer": {"state": {}, "param_groups": []},
    "optimizer.state.0": {"exp_avg": torch.zeros(7)},
    "random_states": [{"torch": 3}],
    "intervals": [{"sums": {"loss": 1}, "steps": 0}],
}


def spoil_state(path, name):
    """Give a pair a state with wrong content and the checksum of that."""
    state_path = path.with_name(path.name.replace(".safetensors", ".trainer.pt"))
    trainer = torch.load(state_path, weights_only=True)
    *parents, last = name.split(".")
    section = trainer
    for key in parents:
        section = section[key]
    section[int(last) if last.isdecimal() else last] = WRONG[name]
    torch.save(trainer, state_path)
    path.with_name(path.name.replace(".safetensors", ".evaluation.json")).unlink(missing_ok=True)
    weights, header = read_weights(path)
    save_weights(path, weights, {**header, "trainer_sha256": hashlib.sha256(state_path.read_bytes()).hexdigest()})


def test_a_state_of_wrong_content_is_passed_over(tmp_path, caplog):
    train(toy_config(train__epochs=2), tmp_path / "whole")
    for name in WRONG:
        out = tmp_path / name
        shutil.copytree(tmp_path / "whole", out)
        older, newest = sorted((out / "checkpoints").glob("*.safetensors"))
        spoil_state(newest, name)
        caplog.clear()
        train(toy_config(train__epochs=2), out, resume=True)
        assert f"step_00000012.safetensors: the trainer's state beside it has wrong content: {name}" in caplog.text
        assert_same(tmp_path / "whole", out)
    spoil_state(older, "step")
    spoil_state(newest, "epoch")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints in .* is complete and readable"):
        train(toy_config(train__epochs=2), out, resume=True)
