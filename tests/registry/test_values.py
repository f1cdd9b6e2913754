"""Values of configs are checked against annotations, with their ranges."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from detkit import registry
from detkit.registry import ConfigError, build, check, check_value, register
from detkit.registry.ranges import (
    Component,
    Device,
    InnerShare,
    OneOf,
    OptionsOf,
    PositiveInt,
    Seed,
    Share,
    Text,
)

GOOD = [
    (int, 3),
    (float, 3),
    (float, 0.5),
    (bool, False),
    (str | Path, Path("a")),
    (Share, 0),
    (Share, 1),
    (PositiveInt | None, None),
    (Sequence[int], (1, 2)),
    (tuple[int, float], [1, 2]),
    (tuple[int, ...], []),
    (dict[str, Any], {}),
    (Literal["auto"] | bool, "auto"),
    (Literal["auto"] | bool, True),
    (Annotated[str, OneOf({"a": 1})], "a"),
    (Device, "cuda:1"),
    (Component, dict(type="Anything")),
    (Any, object()),
]
WRONG = [
    (int, True, "a whole number, got True"),
    (int, 3.0, "a whole number, got 3.0"),
    (float, "3", "a number, got '3'"),
    (float, math.nan, "a number, got nan"),
    (float, math.inf, "a number, got inf"),
    (float, 10**400, "a number, got 1000"),
    (bool, 1, "True or False, got 1"),
    (bool, "no", "True or False, got 'no'"),
    (str, 3, "a text, got 3"),
    (Text, "", "a text that is not empty, got ''"),
    (str | Path, 3, "a path, got 3"),
    (Share, -1, "a number from 0 to 1, got -1"),
    (InnerShare, 1, "a number above 0 and below 1, got 1"),
    (Seed, 2**32, "a whole number of at least 0 and below 4,294,967,296"),
    (PositiveInt | None, 0, "a whole number from 1 to 1,000,000,000, or None, got 0"),
    (PositiveInt, 10**5000, "a whole number from 1 to 1,000,000,000, got a number of 16610 bits"),
    (Sequence[int], "12", "a list, each item a whole number, got '12'"),
    (Sequence[int], [1, None], "a list, each item a whole number, got [1, None]"),
    (tuple[int, float], [1], "a list of 2 items: a whole number, a number, got [1]"),
    (Mapping[str, Any], [], "a dict, got []"),
    (Literal["auto", "bf16"], "atuo", "one of 'auto', 'bf16', got 'atuo', did you mean 'auto'?"),
    (
        Sequence[Annotated[str, OneOf(("blur",))]],
        ["blrr"],
        "each item one of 'blur', got ['blrr'], did you mean 'blur'?",
    ),
    (Device, "gpu", "auto, cpu, cuda, cuda:1, ..., got 'gpu'"),
    (Component, dict(tpye="A"), 'a component, that is a dict with a registered name as "type"'),
]


@pytest.mark.parametrize(("wanted", "value"), GOOD)
def test_what_fits(wanted, value):
    check_value(value, wanted, "train.option")


@pytest.mark.parametrize(("wanted", "value", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_what_does_not_fit_is_one_line_with_the_path_and_what_is_allowed(wanted, value, message):
    with pytest.raises(ConfigError) as error:
        check_value(value, wanted, "train.option")
    assert str(error.value).startswith("train.option: must be ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def parts(monkeypatch):
    """Two components, one of which holds the other."""
    for table in ("_components", "_lazy", "_origins"):
        monkeypatch.setattr(registry, table, {})

    @register
    class Part:
        def __init__(self, depth: PositiveInt = 1, path: str | None = None):
            self.depth = depth

    @register
    class Whole:
        def __init__(
            self,
            part: Part,
            parts: Sequence[Part] = (),
            rule: Annotated[Mapping[str, Any], OptionsOf(Part)] | None = None,
            **options: Annotated[Any, OptionsOf(Part, without=("path",))],
        ):
            self.part, self.options = part, options

    # annotations of classes inside of a function are known where they are not texts
    return Whole


def test_arguments_passed_on_are_known(parts):
    built = build(dict(type="Whole", part=dict(type="Part", depth=2), depth=3))
    assert built.part.depth == 2 and built.options == {"depth": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(part=dict(type="Whole")), "model.part: must be a component, dict(type=...), that is a Part, got {"),
        (dict(part=None), "model.part: must be a component, dict(type=...), that is a Part, got None"),
        (dict(parts=[dict(type="Part"), dict(type="Whole")]), "model.parts.1: must be a component"),
        (dict(depth=0), "model.depth: must be a whole number from 1 to"),
        (dict(dpeth=1), "model: unknown argument 'dpeth' of Whole, did you mean 'depth'? Valid: depth, part, parts"),
        (dict(path="a"), "model: unknown argument 'path' of Whole"),
        (dict(rule=dict(depth=-1)), "model.rule.depth: must be a whole number from 1 to"),
        (dict(rule=dict(dpeth=1)), "model.rule: unknown option 'dpeth', did you mean 'depth'? Valid: depth, path"),
        (dict(rule=[]), "model.rule: must be a dict, or None, got []"),
    ],
)
def test_wrong_arguments_of_components(parts, changes, message):
    with pytest.raises(ConfigError) as error:
        check(dict(type="Whole", part=dict(type="Part")) | changes, "model")
    assert str(error.value).startswith(message)


def test_errors_of_constructors_are_one_line_with_the_path(monkeypatch):
    monkeypatch.setitem(registry._components, "Breaks", lambda number: 1 / number)
    with pytest.raises(ConfigError, match=r"model \(Breaks\): ZeroDivisionError: division by zero"):
        build(dict(type="Breaks", number=0), "model")


def test_a_component_must_have_the_arguments_that_the_program_sets(parts):
    with pytest.raises(ConfigError, match=r"evaluator: Part cannot stand here, it has no argument 'dataset'"):
        check(dict(type="Part"), "evaluator", ["dataset"])
