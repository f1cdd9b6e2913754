"""Wrong options of runs, of wssis and of match get a good line; the whole is `tools/faults.py options`."""

import importlib.util
import json
from collections import Counter

import pytest
from paths import TOOLS

from detkit.cli import main
from detkit.config import SECTIONS, TYPES, config_names, load_config, resolve_config
from detkit.pipelines.matchme import config as matchme
from detkit.pipelines.wssis import config as wssis


@pytest.fixture(scope="module")
def options():
    """The module of the command."""
    spec = importlib.util.spec_from_file_location("faults_options", TOOLS / "faults" / "options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["quickstart", "wssis_quickstart", "match_quickstart"])
def test_every_wrong_option_gets_a_good_line(options, name, monkeypatch):
    monkeypatch.setattr(options, "build_part", lambda *arguments: None)  # building all takes minutes
    every = options.faults_of
    monkeypatch.setattr(options, "faults_of", lambda option: list(every(option))[:: 2 if name == "quickstart" else 4])
    judged = list(options.judge_config(load_config(name)))
    counts = Counter(kind for kind, _ in judged)
    assert [line for kind, line in judged if kind in ("raw", "vague")] == []
    assert counts["good"] > 200 and counts["accepted"] < counts["good"] / 10


@pytest.mark.parametrize(
    ("command", "name", "setting", "message"),
    [
        ("train", "quickstart", "train.clip_norm=-1", "train.clip_norm: must be a number above 0"),
        ("train", "quickstart", "train.clip_norm=0", "train.clip_norm: must be a number above 0"),
        ("train", "quickstart_swin", "schedule.factor=-1", "schedule.factor: must be a number above 0 and at most 1"),
        ("train", "quickstart", "data.skip_broken=no", "data.skip_broken: must be True or False, got 'no'"),
        ("train", "quickstart", "model.decoder_layers=-1", "model.decoder_layers: must be a whole number from 0 to"),
        ("train", "quickstart", "model.input_rule.shortest=x", "model.input_rule.shortest: must be a whole number"),
        ("train", "quickstart", "model.input_rule.shortset=96", "did you mean 'shortest'?"),
        ("train", "quickstart", "data.train.type=Swin", "data.train: "),
        ("train", "quickstart", "hooks=[{'type':'Swin'}]", "hooks.0: Swin is not a hook"),
        ("train", "quickstart", "data.transforms=[{'type':'SetCriterion'}]", "SetCriterion is not a transform"),
        ("train", "quickstart", "model.heads=7", "hidden_dim must be a multiple of heads"),
        ("train", "quickstart_swin", "model.backbone.num_heads=[3,5,7,9]", "num_heads [3, 5, 7, 9] do not divide"),
        ("match", "match_quickstart", "model.backbone.chanels=3", "did you mean 'channels'?"),
        ("match", "match_quickstart", "model.temprature=3", "did you mean 'temperature'?"),
        ("match", "match_quickstart", "rounds.pool.pairs.lenght=3", "did you mean 'length'?"),
        ("wssis", "wssis_quickstart", "teacher.model.input_rule.longset=3", "did you mean 'longest'?"),
        ("wssis", "wssis_quickstart", "refine.crops.max_box=0", "refine.crops.max_box: must be a number from 1"),
    ],
)
def test_refused_before_anything_is_written(command, name, setting, message, tmp_path, capsys):
    assert main([command, name, "--out", str(tmp_path / "out"), "--set", setting]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_option_has_a_type():
    for name, section in SECTIONS.items():
        assert section.keys() <= TYPES[name].keys()
    for name, section in wssis.SECTIONS.items():
        assert section.keys() == wssis.TYPES[name].keys()
    assert matchme.ROUNDS.keys() == matchme.TYPES.keys()


@pytest.mark.parametrize("name", config_names())
def test_shipped_configs_pass_the_check_unchanged(options, name):
    check, config = options.checker(load_config(name))
    before = json.dumps(config)
    check(config)
    if "teacher" not in config and "rounds" not in config:
        assert resolve_config(config) == json.loads(before)
