"""The config of MatchMe training: that of an ordinary run, which trains the teacher, and the section `rounds`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Le

from detkit.config import (
    REQUIRED,
    SECTIONS,
    TOP_LEVEL,
    check_options,
    check_sections,
    check_types,
    resolve_config,
    run_options,
)
from detkit.config.overrides import set_values
from detkit.correspondence.annotate import Rules
from detkit.pipelines.training import error_inside
from detkit.registry import ConfigError, check_all
from detkit.registry.ranges import (
    LARGEST,
    Component,
    Finite,
    NonNegativeInt,
    OptionsOf,
    PositiveFloat,
    PositiveShare,
    Seed,
    Share,
)
from detkit.runtime.components import check_components, import_components

# The options of the section with their defaults.
ROUNDS: dict[str, Any] = dict(
    pool=REQUIRED,  # the images without labels, see `detkit.data.pairs.pool`
    pairs=2000,  # of them that are annotated in each round, at most
    rounds=3,  # at most
    min_gain=0.003,  # a round that gains less of the figure `train.best_metric` is the last
    annotate={},  # which matches are reliable: options of `detkit.correspondence.annotate.Rules`
    held_out=None,  # labelled pairs on which the precision of the annotations is measured; by default data.val
    gate=0.7,  # least precision of the annotations on the held-out pairs; below it the rounds end
    alpha=0.1,  # tolerance of a correct annotation, relative to the evaluator's reference length
    test=None,  # pairs on which every matcher is measured; they decide nothing
    baseline=None,  # a model without training; by default nearest neighbours of the features of `model`
    student={},  # changes to the teacher's config: nested dicts are merged, lists are replaced
    weight=1.0,  # of machine annotations relative to labels, multiplied by their confidence
    ramp=0,  # epochs over which this weight rises from nearly 0
    densify=False,  # also add machine-made points to the labelled pairs
    control=False,  # also train a student without annotations, for comparison
    same_names=False,  # files of the same name count as the same image when the pool is compared with held-out pairs
    seed=None,  # of the choice of pairs; by default train.seed
    pictures=6,  # pairs that the report shows
)
# Types and ranges of the options.
TYPES: dict[str, Any] = dict(
    pool=Component,
    pairs=Annotated[int, Ge(2), Le(LARGEST)],
    rounds=Annotated[int, Ge(1), Le(1000)],
    min_gain=Finite,
    annotate=Annotated[dict[str, Any], OptionsOf(Rules)],
    held_out=Component | None,
    gate=Share,
    alpha=PositiveFloat,
    test=Component | None,
    baseline=Component | None,
    student=dict[str, Any],
    weight=PositiveShare,  # control=True trains without annotations
    ramp=NonNegativeInt,
    densify=bool,
    control=bool,
    same_names=bool,
    seed=Seed | None,
    pictures=Annotated[int, Ge(0), Le(10_000)],
)


def resolve(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The checked and complete config of the teacher's run, and the section `rounds`.

    Raises:
        ConfigError: an unknown or missing option, or a number out of its range.
    """
    check_options(config, (*TOP_LEVEL, "rounds"), "config")
    section = _filled(config.get("rounds"))
    run = {key: value for key, value in config.items() if key != "rounds"}
    check_sections(run)
    run["evaluator"] = {"type": "PCKEvaluator", **run.get("evaluator", {})}
    import_components(run.get("imports", ()))
    if not isinstance(run.get("data"), dict) or run["data"].get("val") is None:
        raise ConfigError("data.val: is missing; the rounds are compared on it")
    run = _steps_or_epochs(run)
    check_components(_plain_run(run))
    check_types(section, TYPES, "rounds")
    if section["seed"] is None:
        section["seed"] = run["train"].get("seed", SECTIONS["train"]["seed"])
    rules(section)
    _check_student(run, section)
    if section["baseline"] is None:
        section["baseline"] = _nearest_neighbours(run["model"])
    for name in ("pool", "held_out", "test", "baseline"):
        check_all(section[name], f"rounds.{name}")
    return run, section


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """The whole config with every option stated; what this gives can be resolved again."""
    run, section = resolve(config)
    full = _plain_run(run)
    if "epochs" not in run["train"]:
        del full["train"]["epochs"]
    return {**full, "rounds": {**section, "annotate": vars(rules(section))}}


def rules(section: dict[str, Any]) -> Rules:
    """The rules of annotation of the section.

    Raises:
        ConfigError: unknown rules, or numbers out of their range.
    """
    options = section["annotate"]
    check_options(options, vars(Rules()), "rounds.annotate")
    try:
        return Rules(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"rounds.annotate: {error}") from error


def override(config: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `config` with `"a.b=value"` settings applied, see `detkit.config.overrides.set_values`.

    Raises:
        ConfigError: as `set_values`.
    """
    return set_values(config, settings, _options)


def _options(path: Sequence[str], holder: Any) -> Iterable[str] | None:
    """See `detkit.config.overrides.Options`."""
    if not path:
        return (*TOP_LEVEL, "rounds")
    if path[0] != "rounds":
        return run_options(path, holder)
    if path[1:2] == ["student"]:
        return run_options(path[2:], holder)
    return {1: ROUNDS, 2: vars(Rules()) if path[1:] == ["annotate"] else ()}.get(len(path), ())


def student_config(
    run: dict[str, Any], section: dict[str, Any], train_data: dict[str, Any], *, number: int
) -> dict[str, Any]:
    """The run of student `number` (0: the control) on `train_data`.

    Its seed is that of the teacher + 1 + `number`, so that each starts with other random weights.

    Raises:
        ConfigError: `rounds.student` names datasets.
    """
    change = section["student"]
    try:
        check_sections(change)
    except ConfigError as error:
        raise error_inside("rounds.student", error) from error
    if {"train", "val"} & change.get("data", {}).keys():
        raise ConfigError("rounds.student.data: the datasets are those of the rounds; leave train and val out")
    seed = run["train"].get("seed", SECTIONS["train"]["seed"]) + 1 + number
    return _steps_or_epochs(merge(run, merge(change, {"data": {"train": train_data}, "train": {"seed": seed}})))


def merge(config: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """`config` updated with `change`. Dicts in both are merged; a dict with a "type" replaces the old one."""
    merged = dict(config)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(config.get(key), dict) and "type" not in value
        merged[key] = merge(config[key], value) if both else value
    return merged


def _filled(section: Any) -> dict[str, Any]:
    if section is None:
        raise ConfigError("config: section 'rounds' is missing; to train a matcher once, use detkit train")
    check_options(section, ROUNDS, "rounds")
    missing = [key for key, default in ROUNDS.items() if default is REQUIRED and section.get(key) is None]
    if missing:
        raise ConfigError(f"rounds: option {missing[0]!r} is missing")
    return {**copy.deepcopy(ROUNDS), **section}


def _steps_or_epochs(run: dict[str, Any]) -> dict[str, Any]:
    """Check a run's config and return it; `train.epochs` may be missing where `train.max_steps` is given."""
    _plain_run(run)
    return run


def _plain_run(run: dict[str, Any]) -> dict[str, Any]:
    """The complete config of a run, with one epoch where the epochs follow from `train.max_steps`."""
    train = run.get("train", {})
    if "epochs" not in train and train.get("max_steps") is None:
        raise ConfigError("train: needs epochs or max_steps")
    steps_count = "epochs" not in train and train.get("max_steps") is not None
    return resolve_config({**run, "train": {**train, "epochs": 1}} if steps_count else run)


def _check_student(run: dict[str, Any], section: dict[str, Any]) -> None:
    try:
        check_components(_plain_run(student_config(run, section, run["data"]["train"], number=0)))
    except ConfigError as error:
        raise error if str(error).startswith("rounds.") else error_inside("rounds.student", error) from error


def _nearest_neighbours(model: dict[str, Any]) -> dict[str, Any]:
    """A nearest-neighbour matcher on the backbone of `model`."""
    if "backbone" not in model:
        raise ConfigError("rounds.baseline: the model has no backbone to compare with; state a model of its own")
    kept: dict[str, Any] = {key: model[key] for key in ("backbone", "side", "grid", "input_rule") if key in model}
    return {"type": "NearestNeighbourMatcher", **kept}
