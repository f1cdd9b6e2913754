import pytest

from detkit import registry
from detkit.cli import main
from detkit.cli.listing import KINDS, all_rows, written_names
from detkit.download.published import PUBLISHED
from detkit.registry import register


def listed(capsys, *words):
    assert main(["list", *words]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("models", {"CATs", "MaskRefiner", "NearestNeighbourMatcher", "SOLOv2", "ViDT"}),
        ("backbones", {"FPN", "ResNet", "Swin", "TimmFeatures", "ConvLayers"}),
        ("datasets", {"CocoDataset", "PointDataset", "RefineCrops", "SPair71k", "SyntheticScenes"}),
        ("transforms", {"DetrAugment", "PairColour", "RandomFlip"}),
        ("evaluators", {"CocoEvaluator", "PCKEvaluator", "RefineEvaluator"}),
        ("schedules", {"constant", "cosine", "solo_steps", "step"}),
        ("parts", {"Checkpoint", "SetCriterion", "SoloPostprocess"}),
        ("configs", {"quickstart", "vidt_plus_swin_base", "wssis_quickstart"}),
    ],
)
def test_kinds(capsys, kind, names):
    lines = listed(capsys, kind)
    assert names <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 3 for line in lines)


def test_everything_has_one_kind_and_a_description():
    rows = {name: (kind, line) for kind, name, line in all_rows() if kind != "configs" and name not in PUBLISHED}
    assert rows.keys() == set(registry.names()) and {kind for kind, _ in rows.values()} <= set(KINDS)
    ours = [name for name in rows if registry.lookup(name).__module__.startswith("detkit.")]
    assert len(ours) > 50 and all(rows[name][1] for name in ours)


def test_patterns(capsys):
    assert [line.split()[0] for line in listed(capsys, "backbones", "swin")] == ["Swin", "SwinLayers"]
    assert [line.split()[0] for line in listed(capsys, "backbones", "s*n")] == ["Swin"]
    assert [line.split()[:2] for line in listed(capsys, "cocoe")] == [["evaluators", "CocoEvaluator"]]


def test_a_whole_name_shows_its_arguments(capsys):
    lines = listed(capsys, "models", "ViDT")
    assert [line.split()[0] for line in lines if line[0] != " "][:2] == ["ViDT", "ViDTWithoutNeck"]
    rows = dict(line.split(maxsplit=1) for line in lines if line[0] == " ")
    assert rows["heads"] == "a whole number from 1 to 256; default 8"
    assert rows["backbone"] == "a component, dict(type=...), that is a Module; required"
    assert rows["input_rule"] == "a dict, or None; default None"
    assert "num_classes" not in rows


def test_published_models(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path))
    rows = {line.split()[0]: line for line in listed(capsys, "models")}
    assert rows.keys() >= PUBLISHED.keys() and len(PUBLISHED) == 16
    assert rows["vidt_plus_swin_tiny"].split(None, 1)[1] == (
        "detector    38 M  49.7 box AP, 39.5 mask AP   Apache-2.0  not here, downloaded when it is named"
    )
    assert "81.2 % on ImageNet" in rows["swin_tiny"] and " MIT " in rows["swin_tiny"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "vidt_swin_nano.safetensors").touch()
    lines = listed(capsys, "models", "vidt_swin_nano")
    assert lines[0].endswith(" here")
    assert lines[1].split() == ["from", PUBLISHED["vidt_swin_nano"].url]
    assert lines[3].split() == ["converted", str(tmp_path / "models" / "vidt_swin_nano.safetensors")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbnes", "Swin"], "unknown kind 'backbnes', did you mean 'backbones'? Valid: models, backbones, "),
        (["backbnes"], "none of the names matches 'backbnes', did you mean 'backbones'?"),
        (["models", "VitD"], "none of the models matches 'VitD', did you mean 'ViDT'?"),
    ],
)
def test_what_is_not_there(capsys, words, message):
    assert main(["list", *words]) == 2
    assert message in capsys.readouterr().err


def test_registered_elsewhere(capsys, monkeypatch):
    for name in ("_components", "_origins"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))

    @register
    class Undescribed:
        def __call__(self, image, annotations, rng):
            return image, annotations

    assert listed(capsys, "transforms", "undescr") == ["Undescribed  "]


def test_names_for_completion_are_those_that_are_registered():
    own = {name for name in registry.names() if registry.lookup(name).__module__.startswith("detkit.")}
    assert set(written_names()) == own
