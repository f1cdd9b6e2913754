import pytest

from detkit import registry
from detkit.registry import ConfigError, build, is_registered, names, register, register_lazy


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    for table in ("_components", "_lazy", "_origins"):
        monkeypatch.setattr(registry, table, {})


def add_parts():
    @register
    class Swin:
        def __init__(self, depths, *, width=32):
            if width <= 0:
                raise ValueError(f"width must be positive, got {width}")
            self.depths, self.width = depths, width

    @register("Detector")
    def make_detector(backbone, num_classes=80, necks=(), options=None):
        return {"backbone": backbone, "num_classes": num_classes, "necks": necks, "options": options}


def test_builds_nested_components_in_dicts_and_lists():
    add_parts()
    swin = dict(type="Swin", depths=[2, 2])
    built = build(dict(type="Detector", backbone=swin, necks=[swin, 1], options=dict(a=swin)), num_classes=3)
    assert built["backbone"].depths == [2, 2] and built["num_classes"] == 3
    assert built["necks"][0].width == 32 and built["necks"][1] == 1 and built["options"]["a"].width == 32
    assert swin == dict(type="Swin", depths=[2, 2])
    assert names() == ["Detector", "Swin"] and is_registered("Swin") and not is_registered("make_detector")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(type="Detecto"), "model: nothing is registered as 'Detecto', did you mean 'Detector'? Valid: Detec"),
        (
            dict(type="Detector", backbone=dict(type="Swin", dephts=[1])),
            "model.backbone: unknown argument 'dephts' of Swin, did you mean 'depths'? Valid: depths, width",
        ),
        (dict(type="Detector", backbone=1, necks=[0, dict(type="Swin")]), "model.necks.1: missing argument 'depths'"),
        (dict(type="Detector", backbone=dict(type="Swin", depths=1, width=0)), "model.backbone (Swin): width must be"),
        (dict(type="Detector", backbone=1, num_classes=2), "model.num_classes: is set by the program"),
        (dict(type=3), "model: expected a dict with a registered name"),
        (dict(backbone=3), "model: expected a dict with a registered name"),
        ("Swin", "model: expected a dict with a registered name"),
    ],
)
def test_errors_name_the_place_in_the_config(config, message):
    add_parts()
    with pytest.raises(ConfigError) as error:
        build(config, path="model", num_classes=3)
    assert str(error.value).startswith(message)


def test_the_same_definition_may_register_again_and_another_may_not():
    add_parts()
    add_parts()

    class Swin:
        pass

    with pytest.raises(ValueError, match=r"'Swin' is registered twice: add_parts.*test_registry.py and .*test_reg"):
        register(Swin)
    with pytest.raises(ValueError, match="registered twice"):
        register_lazy("Swin", "json:dumps", extra="x")


def test_lazy_components_are_imported_when_built():
    register_lazy("Dumps", "json:dumps", extra="none")
    register_lazy("Absent", "no_such_package.part:Thing", extra="export")
    assert build(dict(type="Dumps", obj=1)) == "1"
    with pytest.raises(ConfigError, match=r'exporter: Absent is not installed .*pip install "detkit\[export\]"'):
        build(dict(type="Absent"), path="exporter")
