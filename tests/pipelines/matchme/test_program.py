"""MatchMe in rounds: miniature programs of a few steps."""

import json
import os

import pytest
from paths import ROOT
from PIL import Image

import detkit
from detkit.cli import main
from detkit.config import config_names, format_config, load_config
from detkit.engine.runner import Runner
from detkit.pipelines.matchme.config import merge, override, resolve
from detkit.pipelines.matchme.program import run_rounds
from detkit.registry import ConfigError

PAIRS = dict(type="SyntheticPairs", size=48, images=16)
CONTROL = "control, a student without annotations"
EVERYTHING = dict(relative=10.0, absolute=1000.0, confidence=0.0, boxes=False, minimum=1)


def config(**rounds):
    """A teacher of four steps, two students of three."""
    return dict(
        model=dict(
            type="CATs",
            backbone=dict(type="ConvLayers", channels=[8, 8, 8]),
            side=48,
            grid=6,
            appearance_dim=12,
            heads=4,
            temperature=0.1,
            field=17,
        ),
        data=dict(
            train=dict(PAIRS, length=8),
            val=dict(PAIRS, length=4, seed=1),
            transforms=[dict(type="PairSwap")],
            batch_size=4,
            eval_batch_size=4,
            workers=0,
        ),
        optimizer=dict(lr=1e-3),
        train=dict(max_steps=4, device="cpu", tensorboard=False, draw_samples=0, log_every=2),
        evaluator=dict(type="PCKEvaluator", alphas=[0.1, 0.05]),
        imports=[str(ROOT / "examples" / "own_parts.py")],
        hooks=[dict(type="EpochFiles")],
        rounds=dict(
            pool=dict(type="PairImages", pairs=dict(PAIRS, length=20, seed=2)),
            pairs=12,
            rounds=2,
            min_gain=-1,
            gate=0,
            annotate=EVERYTHING,
            student=dict(train=dict(max_steps=3)),
            pictures=1,
        )
        | rounds,
    )


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_whole_program_then_nothing_is_done_again(tmp_path, capsys, monkeypatch):
    """As a user does it, with the command."""
    full = config(test=dict(PAIRS, length=3, seed=3), control=True, densify=True, ramp=1)
    (tmp_path / "tiny.py").write_text(format_config(full))
    out = tmp_path / "out"
    assert main(["match", str(tmp_path / "tiny.py"), "--out", str(out)]) == 0
    stages = ("baseline", "teacher", "control", "labels_1", "student_1", "labels_2", "student_2")
    assert all((out / name / "done.json").is_file() for name in stages)
    runs = ("teacher", "control", "student_1", "student_2")
    assert all(read(out / name / "run" / "config.json")["hooks"] == full["hooks"] for name in runs)
    assert (out / "teacher" / "run" / "epochs" / "001.json").is_file()

    pseudo = read(out / "labels_1" / "pseudo.json")
    assert pseudo["info"]["round"] == 1 and pseudo["info"]["kept"] == len(pseudo["pairs"]) > 0
    assert len(pseudo["pairs"][0]["points"][0]) == 5
    quality = read(out / "labels_2" / "quality.json")
    assert quality["pairs"] == 4 and 0 <= quality["precision"] <= 1 and quality["densified"] > 0

    rows = {row["name"]: row for row in read(out / "report.json")["rows"]}
    assert list(rows) == ["nearest neighbours, no training", "teacher", CONTROL, "student 1", "student 2"]
    assert all(
        {"PCK@0.1", "PCK@0.05"} <= row["figures"][name].keys() for row in rows.values() for name in ("val", "test")
    )
    table = (out / "report.md").read_text()
    assert "| student 2 | 8 labelled pairs with added points and" in table and "test PCK@0.05" in table
    for name in ("report", "matches", "warps"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100
    model = detkit.load(out / "student_2" / "run" / "best.safetensors")
    assert type(model).__name__ == "CATs"

    before = {path: path.stat().st_mtime_ns for name in stages for path in (out / name).rglob("*")}
    monkeypatch.setattr(Runner, "train", lambda self: pytest.fail("trained again"))
    capsys.readouterr()
    assert main(["match", str(tmp_path / "tiny.py"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("complete, skipped") == len(stages)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_killed_program_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """It is stopped in the teacher's and in the student's training, and resumed."""
    run_rounds(config(rounds=1, pictures=0), tmp_path / "whole")
    train_step, calls = Runner.train_step, []

    def train_step_until_killed(self, *arguments):
        calls.append(self.out)
        if len(calls) in (3, 7):
            raise KeyboardInterrupt
        train_step(self, *arguments)

    monkeypatch.setattr(Runner, "train_step", train_step_until_killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_rounds(config(rounds=1, pictures=0), tmp_path / "killed")
    run_rounds(config(rounds=1, pictures=0), tmp_path / "killed")
    for path in ("teacher/figures.json", "labels_1/pseudo.json", "student_1/figures.json"):
        assert read(tmp_path / "killed" / path) == read(tmp_path / "whole" / path)
    assert {path.parent.name for path in calls} == {"teacher", "student_1"}


def test_other_options_for_work_that_is_done_are_refused(tmp_path):
    run_rounds(config(rounds=1, pictures=0), tmp_path)
    with pytest.raises(
        ConfigError, match=r"labels_1.*made from something else:\n  annotate\.confidence: 0\.0 then, 0\.1 now"
    ):
        run_rounds(config(rounds=1, pictures=0, annotate=EVERYTHING | dict(confidence=0.1)), tmp_path)


def test_bad_annotations_stop_at_the_gate(tmp_path):
    report = run_rounds(config(gate=1.0, pictures=1), tmp_path).read_text()
    assert "round 1 was not trained on its annotations: only" in report and "less than 100%" in report
    assert not (tmp_path / "labels_1" / "pseudo.json").exists() and not (tmp_path / "student_1").exists()
    assert "| student 1 | not trained |" in report


def test_without_any_reliable_cell_the_gate_stops_too(tmp_path):
    nothing = dict(EVERYTHING, relative=0.0, absolute=0.0)
    report = run_rounds(config(annotate=nothing, pictures=0), tmp_path).read_text()
    assert "no key-point of the held-out pairs lies in a reliable cell" in report


def test_a_pool_without_reliable_cells_ends_the_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr("detkit.pipelines.matchme.labels.draw_pairs", lambda *arguments, **options: [])
    report = run_rounds(config(pictures=0), tmp_path).read_text()
    assert "none of 0 pairs of the pool has enough reliable cells" in report and not (tmp_path / "student_1").exists()


def test_a_round_that_gains_too_little_is_the_last(tmp_path):
    report = run_rounds(config(min_gain=2, pictures=0), tmp_path).read_text()
    assert "less than rounds.min_gain" in report and not (tmp_path / "labels_2").exists()


@pytest.mark.parametrize("name", ["val", "test", "held_out"])
def test_a_pool_with_held_out_images_is_refused(name, tmp_path):
    shared = config(pool=dict(type="PairImages", pairs=dict(PAIRS, length=5, seed=7)))
    other = dict(PAIRS, length=5, seed=7)
    if name == "val":
        shared["data"]["val"] = other
    else:
        shared["rounds"][name] = other
    with pytest.raises(ConfigError, match=r"rounds\.pool: \d+ of \d+ images of the pool are also in .*" + name):
        run_rounds(shared, tmp_path / "out")
    assert not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (dict(gates=0.7), "unknown option 'gates', did you mean 'gate'"),
        (dict(pool=None), "option 'pool' is missing"),
        (dict(annotate=dict(confidence=2)), r"rounds\.annotate\.confidence: must be a number from 0 to 1"),
        (dict(annotate=dict(capp=2)), r"rounds\.annotate: unknown option 'capp'"),
        (dict(rounds=0), r"rounds\.rounds: must be a whole number from 1 to 1,000"),
        (dict(rounds=1.5), r"rounds\.rounds: must be a whole number from 1 to 1,000, got 1\.5"),
        (dict(gate=7), r"rounds\.gate: must be a number from 0 to 1, got 7"),
        (dict(weight=2), r"rounds\.weight: must be a number above 0 and at most 1, got 2"),
        (dict(densify="maybe"), r"rounds\.densify: must be True or False"),
        (dict(annotate=dict(cap=2.5)), r"rounds\.annotate\.cap: must be a whole number"),
        (dict(student=5), r"rounds\.student: must be a dict"),
        (dict(student=dict(model=dict(dpeth=1))), r"rounds\.student\.model: .*'dpeth' of CATs, did you mean 'depth'"),
        (dict(student=dict(modle={})), r"rounds\.student: unknown option 'modle', did you mean 'model'"),
        (dict(student=dict(train=dict(epohcs=1))), r"rounds\.student\.train: .*'epohcs', did you mean 'epochs'"),
        (dict(pool=dict(type="PairImages", paris=3)), r"rounds\.pool: .*'paris' .* did you mean 'pairs'"),
        (dict(student=dict(data=dict(transforms=[dict(type="KeyOutt")]))), r"rounds\.student\..*'KeyOutt'"),
        (dict(student=dict(data=dict(train=dict(PAIRS)))), r"rounds\.student\.data: the datasets are"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(rounds, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_rounds(config(**rounds), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_config_without_rounds_is_for_another_command(tmp_path, capsys):
    plain = config()
    del plain["rounds"]
    (tmp_path / "plain.py").write_text(format_config(plain))
    assert main(["match", str(tmp_path / "plain.py"), "--out", str(tmp_path / "out")]) == 2
    assert "section 'rounds' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in config_names() if name.startswith("match_")])
def test_shipped_configs_are_complete(name):
    run, section = resolve(load_config(name))
    assert section["pool"] and run["data"]["val"] and section["baseline"]["type"] == "NearestNeighbourMatcher"


def test_overrides_reach_options_that_the_config_leaves_out():
    changed = override(config(), ["rounds.gate=0.5", "rounds.densify=true", "train.max_steps=7"])
    assert changed["rounds"]["gate"] == 0.5 and changed["rounds"]["densify"]
    assert changed["train"]["max_steps"] == 7
    changed = override(config(annotate={}, student={}), ["rounds.annotate.cap=9", "rounds.student.train.max_steps=2"])
    assert changed["rounds"]["annotate"] == dict(cap=9)
    assert changed["rounds"]["student"] == dict(train=dict(max_steps=2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ruonds.gate=1", r"config: unknown key 'ruonds', did you mean 'rounds'"),
        ("rounds.gaet=1", r"rounds: unknown key 'gaet', did you mean 'gate'"),
        ("rounds.anotate.cap=1", r"rounds: unknown key 'anotate', did you mean 'annotate'"),
        ("rounds.annotate.capp=1", r"rounds\.annotate: unknown key 'capp', did you mean 'cap'"),
        ("rounds.student.trian.max_steps=1", r"rounds\.student: unknown key 'trian', did you mean 'train'"),
        ("rounds.student.train.maxsteps=1", r"rounds\.student\.train: .*'maxsteps', did you mean 'max_steps'"),
        ("train.epohcs=1", r"train: unknown key 'epohcs', did you mean 'epochs'"),
    ],
)
def test_misspelt_overrides(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(config(), [setting])


def test_the_printed_config_states_everything_and_means_the_same(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text(format_config(config(annotate={})))
    assert main(["match", str(path), "--print-config", "--set", "rounds.gate=0.5"]) == 0
    path.write_text(printed := capsys.readouterr().out)
    assert main(["match", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    stated = load_config(path)
    assert stated["rounds"]["gate"] == 0.5 and stated["rounds"]["annotate"]["minimum"] == 8
    assert stated["train"]["seed"] == 42 and "epochs" not in stated["train"]


def test_options_of_students_are_merged():
    base, change = dict(a=dict(b=1, c=[1, 2]), d=dict(type="X", e=1)), dict(a=dict(c=[3]), d=dict(type="Y"))
    assert merge(base, change) == dict(a=dict(b=1, c=[3]), d=dict(type="Y"))
    assert base["a"]["c"] == [1, 2]
