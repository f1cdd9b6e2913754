import json

import pytest
from paths import GOLDEN as GOLDEN_FILES

import detkit.pointseg.schedules  # noqa: F401 (registers solo_steps)
from detkit.engine.schedules import cosine
from detkit.registry import ConfigError, build

GOLDEN = GOLDEN_FILES / "vidt" / "schedule_vidt_plus_nano_50ep.json"


def make(**options):
    return build(options, path="schedule", lr=1e-4, epochs=10, steps_per_epoch=4)


def test_the_published_schedule_of_vidt():
    golden = json.loads(GOLDEN.read_text())
    arguments = {name: golden["args"][name] for name in ("lr", "min_lr", "epochs", "warmup_epochs")}
    factor = cosine(**arguments, steps_per_epoch=7, official=True)
    rates = [[arguments["lr"] * factor(7 * epoch + step) for step in range(7)] for epoch in range(50)]
    assert all(len(set(of_epoch)) == 1 for of_epoch in rates)
    assert [of_epoch[0] for of_epoch in rates] == pytest.approx(golden["lr_by_epoch"], rel=1e-12, abs=0)


def test_cosine_by_epoch_moves_from_the_first_epoch_on():
    factor = make(type="cosine")
    assert factor(0) == factor(3) == 1 and factor(4) < 1 and factor(20) == pytest.approx(0.5)


def test_cosine_by_step_with_warmup_ends_at_its_floor():
    factor = make(type="cosine", per_step=True, min_lr=1e-6, warmup_steps=4)
    assert factor(0) == pytest.approx(0.25) and factor(39) == pytest.approx(0.01)
    assert all(factor(i) > factor(i + 1) for i in range(4, 39))


def test_cosine_by_step_may_span_fewer_steps_than_the_epochs():
    factor = make(type="cosine", per_step=True, min_lr=1e-6, span_steps=10)
    assert factor(0) == 1 and factor(9) == pytest.approx(0.01) and factor(30) == pytest.approx(0.01)


def test_constant_and_drops():
    assert [make(type="constant", warmup_epochs=0.5)(i) for i in range(4)] == [0.5, 1, 1, 1]
    factor = make(type="step", drop_epochs=[2, 5])
    assert [factor(i) for i in (0, 7, 8, 19, 20, 39)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(type="cosine", warmup=3), "schedule: unknown argument 'warmup' of cosine, did you mean 'warmup_"),
        (dict(type="cosine", min_lr=1), "min_lr must lie between 0 and lr"),
        (dict(type="cosine", per_step=True, official=True), "cannot be combined"),
        (dict(type="cosine", span_steps=3), "it needs per_step=True"),
        (dict(type="constant", warmup_steps=1, warmup_epochs=1), "not both"),
        (dict(type="step", drop_epochs=[11]), "between 1 and 9"),
        (dict(type="cosin"), "did you mean 'cosine'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (dict(type="cosine", warmup_steps=40), 40),
        (dict(type="constant", warmup_epochs=12.5), 50),
        (dict(type="solo_steps", drop_steps=[20]), 1000),
    ],
)
def test_a_warm_up_as_long_as_the_run_is_reported(caplog, options, steps):
    make(**options)
    assert f"warm-up of {steps} steps is not shorter than the run of 40: optimizer.lr is never reached" in caplog.text


def test_a_shorter_warm_up_is_not_reported(caplog):
    make(type="cosine", warmup_steps=39)
    make(type="solo_steps", drop_steps=[20], warmup_steps=39)
    assert caplog.text == ""
