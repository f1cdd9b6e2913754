import csv
import json
import os
import shutil
import signal

import pytest
import torch
from processes import run_process, wait_for
from small_vidt import small_vidt
from toy_run import ToyModel, step_before, toy_config, train_killed

from detkit.checkpoints.resume import latest_checkpoint
from detkit.checkpoints.weights import CheckpointError, load_model, read_header
from detkit.data.synthetic import SyntheticScenes
from detkit.engine.guard import NonFiniteError, load_batches
from detkit.engine.runner import Runner, train
from detkit.engine.writers import Curves, read_metrics
from detkit.registry import ConfigError
from detkit.runtime.components import warn_of_crowds


@pytest.fixture(autouse=True)
def no_slow_extras(request, monkeypatch):
    if "complete_folder" not in request.node.name:
        monkeypatch.setattr(Curves, "after_train", lambda hook, runner: None)
        monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of the plain config that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(toy_config(), out)
    return out


def same(first, second):
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_run(first, second):
    one, two = (latest_checkpoint(out / "checkpoints") for out in (first, second))
    assert one.path.name == two.path.name
    assert same(one.weights, two.weights)
    for key in one.trainer.keys() - {"pair"}:
        assert same(one.trainer[key], two.trainer[key]), key
    rows = [[(r["kind"], r["step"]) for r in read_metrics(out / "metrics.jsonl")] for out in (first, second)]
    assert rows[0] == rows[1]


def test_a_run_leaves_a_complete_folder(tmp_path):
    config = toy_config(train__ema=0.9, train__draw_samples=2, train__profile_steps=2, train__tensorboard="auto")
    runner = train(config, tmp_path / "run")
    out = tmp_path / "run"
    rows = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in rows if r["kind"] == "train"] == list(range(2, 19, 2))
    assert [r["step"] for r in rows if r["kind"] == "val"] == [6, 12, 18]
    assert rows[0]["loss"] == pytest.approx(sum(v for k, v in rows[0].items() if k.startswith("loss_")))
    with (out / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert {"curves.png", "trace.json", "results.json", "config.py"} <= {path.name for path in out.iterdir()}
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["100.png", "101.png"]
    assert len(json.loads((out / "results.json").read_text())) == 5
    assert read_header(out / "best.safetensors")["metrics"]["AP"] == max(r["AP"] for r in rows if r["kind"] == "val")
    last = load_model(out / "last.safetensors")
    assert last.label_map == runner.train_data.label_map
    assert torch.equal(last.heads[0].weight, runner.ema.model.heads[0].weight)
    assert not torch.equal(last.heads[0].weight, runner.model.heads[0].weight)


@pytest.mark.parametrize(
    "changes", [dict(), dict(train__ema=0.9, train__accumulate=2, data__workers=1, train__eval_every=3)]
)
def test_a_killed_run_resumes_bit_for_bit(tmp_path, changes):
    # 6 batches an epoch; killed within the second epoch, after a checkpoint in its middle
    kill_at, every = (11, 4) if not changes else (6, 2)
    config = toy_config(train__checkpoint_every=every, train__log_every=1, **changes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(config, tmp_path / "whole")
    log = tmp_path / "killed.log"
    process = run_process(lambda: train_killed(config, tmp_path / "killed", kill_at=kill_at), log)
    assert wait_for([process]) == [-signal.SIGKILL], log.read_text()
    checkpoint = latest_checkpoint(tmp_path / "killed" / "checkpoints")
    assert 0 < checkpoint.trainer["position"] < 6 and checkpoint.trainer["epoch"] == 1
    train(None, tmp_path / "killed", resume=True)
    torch.set_num_threads(threads)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    for name in ("best.safetensors", "last.safetensors"):
        assert same(
            load_model(tmp_path / "whole" / name).state_dict(), load_model(tmp_path / "killed" / name).state_dict()
        )


def test_a_torn_checkpoint_costs_only_its_steps(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "torn")
    newest = latest_checkpoint(tmp_path / "torn" / "checkpoints").path
    newest.write_bytes(newest.read_bytes()[:-1])
    train(toy_config(), tmp_path / "torn", resume=True)
    assert_same_run(whole, tmp_path / "torn")


def test_resuming_a_run_without_checkpoints_starts_it(tmp_path, monkeypatch, whole):
    def die():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Runner, "train_step", step_before(die, 3))
        train(toy_config(), tmp_path / "run")
    train(toy_config(), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 3), (signal.SIGTERM, 6)])
def test_a_signal_stops_after_the_step_and_the_run_can_go_on(tmp_path, monkeypatch, whole, number, step):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "train_step", step_before(lambda: os.kill(os.getpid(), number), step))
        runner = train(toy_config(), tmp_path / "run")
    assert runner.interrupted and runner.step == step
    assert signal.getsignal(signal.SIGINT) is before
    assert not train(toy_config(), tmp_path / "run", resume=True).interrupted
    assert_same_run(whole, tmp_path / "run")


def test_max_steps_stops_early_and_evaluates(tmp_path):
    runner = train(toy_config(train__max_steps=4), tmp_path / "run")
    assert runner.step == 4 and runner.evaluated_at == 4
    assert read_header(tmp_path / "run" / "last.safetensors")["metrics"] == runner.metrics
    assert train(toy_config(train__max_steps=8), tmp_path / "run", resume=True).step == 8
    assert train(toy_config(train__max_steps=8), tmp_path / "run", resume=True).step == 8


def test_early_stop(tmp_path):
    config = toy_config(train__epochs=9, train__early_stop=2, evaluator=dict(type="ToyEvaluator", scale=0.0))
    runner = train(config, tmp_path / "run")
    assert runner.epoch == 3 and runner.best == {"value": 0.0, "step": 6, "since": 2}
    assert train(config, tmp_path / "run", resume=True).epoch == 3


def test_evaluation_does_not_change_training(tmp_path, whole):
    never = train(toy_config(data__val=None), tmp_path / "never")
    assert same(load_model(whole / "last.safetensors").state_dict(), never.model.state_dict()) and never.metrics == {}


def weights_after(tmp_path, name, **changes):
    config = toy_config(model=dict(type="ToyModel", dropout=0.0, batch_norm=False), **changes)
    config["data"]["val"], config["train"]["max_steps"] = None, 2
    runner = train(config, tmp_path / name)
    return runner.model.heads[0].weight.detach(), read_metrics(tmp_path / name / "metrics.jsonl")[-1]


def test_accumulated_gradients_equal_those_of_a_large_batch(tmp_path):
    large, row = weights_after(tmp_path, "large", data__batch_size=8)
    small, other = weights_after(tmp_path, "small", data__batch_size=2, train__accumulate=4)
    torch.testing.assert_close(large, small, rtol=1e-4, atol=1e-6)
    assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-5)


def test_the_last_step_of_an_epoch_may_have_fewer_micro_batches(tmp_path):
    assert train(toy_config(train__accumulate=4), tmp_path / "run").step == 6


@pytest.mark.parametrize("crowded", [0, -1])
def test_batches_without_objects_train_on(tmp_path, crowded):
    config = toy_config(data__train=dict(type="ToyScenes", crowded=crowded))
    assert train(config, tmp_path / "run").step == 18


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = toy_config(data__train=dict(type="ToyScenes", bad_image=3), train__checkpoint_every=1)
    with pytest.raises(NonFiniteError, match=r"loss_box_0 nan.*Images: .*103"):
        train(config, tmp_path / "run")
    (path,) = (tmp_path / "run").glob("nonfinite_batch_step_*.pt")
    (batch,), _ = load_batches(path)
    assert 103 in [a.image_id for a in batch.annotations]
    checkpoint = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is None or all(w.isfinite().all() for w in checkpoint.weights.values())
    model = ToyModel(2).train()
    assert not all(loss.isfinite() for loss in model(batch).values())


def test_bf16_on_the_cpu_and_impossible_requests(tmp_path):
    assert train(toy_config(train__precision="bf16", train__max_steps=2), tmp_path / "run").step == 2
    with pytest.raises(ConfigError, match=r"train.precision: must be one of 'auto', 'bf16', 'fp32', got 'fp16'"):
        train(toy_config(train__precision="fp16"), tmp_path / "fp16")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch sees no CUDA device"):
            train(toy_config(train__device="cuda"), tmp_path / "cuda")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train__epoch=3), r"train: unknown option 'epoch', did you mean 'epochs'"),
        (dict(data__train=dict(type="ToyScene")), r"data.train: nothing is registered as 'ToyScene', did you mean"),
        (dict(data__transforms=[dict(type="Nothing")]), r"data.transforms.0: nothing is registered as 'Nothing'"),
        (dict(data__batch_size=25), r"data: .*batch of 25"),
        (dict(model=dict(type="ToyModel", num_classes=5)), r"model.num_classes: is 5, but the data has 2 classes"),
        (dict(schedule=dict(type="cosine", warm=1)), r"schedule: unknown argument 'warm' of cosine"),
        (dict(evaluator=dict(type="ToyEvaluator", iou=1)), r"evaluator: unknown argument 'iou' of ToyEvaluator"),
        (dict(train__early_stop=1, data__val=None), r"train.early_stop: needs data.val"),
        (dict(train__best_metric="bbox/AP", data__val=None), r"train.best_metric: needs data.val"),
        (dict(train__tensorboard="yes"), r"train.tensorboard: must be True or False, or 'auto'"),
        (dict(train__best_metric="mAP"), r"train.best_metric: no figure is called 'mAP'. Valid: AP, images"),
        (dict(train__ema=2.0), r"train.ema: must be a number above 0 and below 1"),
    ],
)
def test_config_errors(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(toy_config(**changes), tmp_path / "run")
    assert "best_metric" in message or not (tmp_path / "run").exists()


def test_tensorboard_that_is_not_installed_is_an_error_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "detkit\[tensorboard\]"'):
        train(toy_config(train__tensorboard=True), tmp_path / "run")


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    config = toy_config()
    train(config, tmp_path / "run")
    stored = tmp_path / "run" / "config.json"
    config["data"]["train"]["length"] = 48
    stored.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="was written with 6 batches per epoch, this run has 12"):
        train(config, tmp_path / "run", resume=True)


def test_more_objects_than_det_tokens_are_reported(caplog):
    scenes = SyntheticScenes(2, max_objects=12)
    model = small_vidt()
    model.backbone.num_tokens = 12
    warn_of_crowds(model, scenes)
    assert not caplog.records
    model.backbone.num_tokens = 7
    warn_of_crowds(model, scenes)
    assert "12 objects, but the model finds at most 7" in caplog.text


@pytest.mark.parametrize("broken", ["train", "val"])
def test_a_broken_image_ends_the_run_only_if_asked(tmp_path, broken, caplog):
    import numpy as np
    from PIL import Image

    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)).save(tmp_path / name / f"{number}.jpg")
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 64} for i in range(4)]
        boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [5, 5, 20, 20]} for i in range(4)]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    torn = tmp_path / broken / "2.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    data = {
        name: {
            "type": "CocoDataset",
            "annotation_file": str(tmp_path / f"{name}.json"),
            "image_folder": str(tmp_path / name),
        }
        for name in ("train", "val")
    }
    config = dict(
        model=dict(type="ToyModel"),
        data=dict(data, batch_size=2, workers=0),
        train=dict(epochs=1, log_every=1, draw_samples=4, device="cpu", tensorboard=False),
    )
    train(config, tmp_path / "run")
    assert "image id 2" in caplog.text and "2.jpg" in caplog.text
    config["data"]["skip_broken"] = False
    with pytest.raises(ValueError, match=r"2\.jpg"):
        train(config, tmp_path / "strict")
