import pytest

from detkit.config import load_config
from detkit.pipelines.finetune.budget import Speed, expected, fit, total_steps, with_evaluations, with_short_warmup


def config(**train):
    loaded = load_config("finetune_cpu")
    return {**loaded, "train": {**loaded["train"], **train}}


def test_as_many_epochs_as_fit_with_their_evaluations():
    speed = Speed(step=1.0, evaluation=4.0, steps_per_epoch=10)
    fitted = fit(config(), speed, seconds=320)
    train = fitted["train"]
    assert train["epochs"] == 30 and train["eval_every"] == 6 and train["first_eval"] is None
    assert "span_steps" not in fitted["schedule"]
    assert expected(fitted, speed) == "about 5:20: 300 steps, 30 epochs, 5 evaluations (1.000 s a step)"


def test_within_an_epoch_the_schedule_spans_the_steps():
    speed = Speed(step=1.0, evaluation=0.0, steps_per_epoch=1000)
    fitted = with_short_warmup(fit(config(), speed, seconds=100), speed)
    assert fitted["train"]["epochs"] == 1 and fitted["train"]["max_steps"] == 100
    assert fitted["schedule"]["span_steps"] == 100 and fitted["schedule"]["warmup_steps"] == 10
    assert fitted["train"]["first_eval"] == 20


def test_slow_evaluations_are_fewer():
    speed = Speed(step=1.0, evaluation=100.0, steps_per_epoch=50)
    fitted = fit(config(), speed, seconds=600)
    assert fitted["train"]["epochs"] == 8 and fitted["train"]["eval_every"] == 4 and fitted["train"]["first_eval"] == 80


def test_at_least_one_step():
    speed = Speed(step=10.0, evaluation=10.0, steps_per_epoch=5)
    assert total_steps(fit(config(), speed, seconds=5), speed) == 1


@pytest.mark.parametrize(("epochs", "every", "first"), [(12, 2, None), (5, 1, None), (3, 1, 6), (1, 1, 2)])
def test_the_first_evaluation_comes_after_a_fifth_at_the_latest(epochs, every, first):
    speed = Speed(step=1.0, evaluation=1.0, steps_per_epoch=10)
    train = with_evaluations(config(epochs=epochs), speed)["train"]
    assert (train["eval_every"], train["first_eval"]) == (every, first)
