"""Two gloo processes with the environment that torchrun gives."""

import json
import signal

import pytest
import torch
from toy_run import run_two, toy_config

from detkit.checkpoints.resume import latest_checkpoint
from detkit.engine.runner import train
from detkit.engine.writers import read_metrics


def small(**changes):
    model = dict(type="ToyModel", dropout=0.0, batch_norm=False)
    return toy_config(model=model, train__log_every=1, train__epochs=1, **changes)


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train(small(data__batch_size=8), folder / "one")
    codes, output = run_two(small(data__batch_size=2, train__accumulate=2), folder / "two")
    assert codes == [0, 0], output
    return folder / "one", folder / "two"


def test_gradients_and_weights_equal_those_of_one_process(one_and_two):
    one, two = ([r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"] for out in one_and_two)
    assert len(one) == len(two) == 3
    for row, other in zip(one, two, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
    weights = [latest_checkpoint(out / "checkpoints").weights for out in one_and_two]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)


def test_evaluation_of_uneven_shards_equals_that_of_one_process(one_and_two):
    one, two = ([r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "val"] for out in one_and_two)
    assert one[0]["images"] == two[0]["images"] == 5
    assert two[0]["AP"] == pytest.approx(one[0]["AP"], rel=1e-3)
    assert len(json.loads((one_and_two[1] / "results.json").read_text())) == 5


def test_each_process_keeps_its_random_state(one_and_two):
    first, second = latest_checkpoint(one_and_two[1] / "checkpoints").trainer["random_states"]
    assert not torch.equal(first["torch"], second["torch"])


def test_processes_without_objects_do_not_hang_and_resume_continues(tmp_path):
    crowded = toy_config(data__train=dict(type="ToyScenes", crowded=0), data__batch_size=2, train__checkpoint_every=2)
    codes, output = run_two(crowded, tmp_path / "run", kill_at=10)
    assert codes[0] == -signal.SIGKILL and codes[1] != 0, output
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").trainer["position"] == 2
    codes, output = run_two(crowded, tmp_path / "run", resume=True)
    assert codes == [0, 0], output
    assert "resuming after step 8 (epoch 1, batch 2)" in output
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").header["step"] == 18
    with pytest.raises(ValueError, match="was written with 2 processes, this run has 1"):
        train(crowded, tmp_path / "run", resume=True)
