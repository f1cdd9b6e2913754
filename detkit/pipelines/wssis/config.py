"""The config of PointWSSIS: where the data comes from, and the runs of the stages.

    config = dict(
        data=dict(...),     # or split=dict(...), or scenes=dict(...)
        teacher=dict(...), refine=dict(...), pseudo=dict(...), student=dict(...), bound=True,
        imports=(...), hooks=[...],     # of all runs
    )

`teacher`, `student` and `refine` are configs of ordinary runs (see `detkit.config`) without `data.train` and
`data.val`, which the stages fill in. `train.epochs` may be left out where `train.max_steps` is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt, MinLen

from detkit.config import (
    LISTS,
    REQUIRED,
    absolute_imports,
    check_hooks,
    check_keys,
    check_options,
    check_sections,
    check_types,
    resolve_config,
    run_options,
)
from detkit.config.overrides import set_values
from detkit.modeling.prompted import NEEDED
from detkit.pipelines.training import error_inside, run_config
from detkit.pointseg.refine.crops import SIZE
from detkit.registry import ConfigError, check, check_value
from detkit.registry.ranges import Device, Images, OneOf, PositiveInt, Seed, Text
from detkit.runtime.components import check_components, import_components

SOURCES = ("data", "split", "scenes")
RUNS = ("teacher", "refine", "student")
# The options of each section with their defaults.
SECTIONS: dict[str, dict[str, Any]] = {
    # Your own points, and a few images with masks.
    "data": dict(
        strong=REQUIRED,  # COCO instances json of the images with masks
        weak=REQUIRED,  # json of the images with points, see `detkit.data.points.dataset`
        image_folder=REQUIRED,  # where the file names of both begin
        truth=None,  # json of the weak images with true masks under the ids of the points, to measure pseudo labels
        val=None,  # COCO instances json to validate on
        val_image_folder=None,  # by default image_folder
    ),
    # A dataset with masks, of which a part is reduced to points.
    "split": dict(
        annotation_file=REQUIRED,  # COCO instances json
        image_folder=REQUIRED,  # where the file names in it begin
        percent=REQUIRED,  # of the images that keep their masks
        seed=None,  # of their choice, by default that of the whole config
        points="centre",  # "centre" of mass of the mask, a "random" pixel of it, or "given" in the file
        boxes=False,  # whether weak annotations keep their boxes, for the prompt "point_with_size"
        val=None,  # COCO instances json to validate on
        val_image_folder=None,  # by default image_folder
    ),
    # Generated scenes, of which a part is reduced to points.
    "scenes": dict(
        images=1000,  # to train on
        val_images=200,  # to validate on
        percent=5,  # of the images that keep their masks
        seed=None,  # of the scenes and the choice, by default that of the whole config
        points="centre",  # as in split
        boxes=False,  # as in split
        options={},  # of `SyntheticScenes`
    ),
    "pseudo": dict(
        prompt="point",  # how the teacher is prompted on the weak images
        refine_prompt="point_with_size",  # of the teacher on the strong images, whose masks the refiner starts from
        batch_size=1,  # images that the teacher sees together
        device="auto",  # of the predictions; "auto" is cuda where there is one
        students=("raw", "refined"),  # on which labels students are trained
    ),
}
PATHS = ("strong", "weak", "image_folder", "truth", "val", "val_image_folder", "annotation_file")  # may be digits
_POINTS = Annotated[str, OneOf(("centre", "random", "given"))]
_PROMPT = Annotated[str, OneOf([name for name, needed in NEEDED.items() if "points" in needed])]
_PERCENT = Annotated[float, Gt(0), Lt(100)]
# Types and ranges of the options.
TYPES: dict[str, dict[str, Any]] = {
    "data": dict(strong=Text, weak=Text, image_folder=Text, truth=Text | None, val=Text | None)
    | dict(val_image_folder=Text | None),
    "split": dict(annotation_file=Text, image_folder=Text, percent=_PERCENT, seed=Seed | None, points=_POINTS)
    | dict(boxes=bool, val=Text | None, val_image_folder=Text | None),
    "scenes": dict(images=PositiveInt, val_images=PositiveInt, percent=_PERCENT, seed=Seed | None, points=_POINTS)
    | dict(boxes=bool, options=dict[str, Any]),
    "pseudo": dict(prompt=_PROMPT, refine_prompt=_PROMPT, batch_size=Images, device=Device)
    | dict(students=Annotated[Sequence[Literal["raw", "refined"]], MinLen(1)]),
}
# Options of the section `refine` besides those of a run: at which steps the unfinished teacher predicts the rough masks
# that the refiner learns from, and options of `RefineCrops`.
REFINE = ("teacher_steps", "crops")
RUN_KEYS = ("model", "data", "optimizer", "schedule", "train", "evaluator")
DEFAULTS = dict(
    seed=0,  # of all choices and trainings that state none
    bound=False,  # also train a student on the true masks of all images, as an upper bound
)
TOP_LEVEL = (*SOURCES, *RUNS, "pseudo", *DEFAULTS, *LISTS)
# Arguments of components that stages fill in, by the place of the others in the config.
FILLED_IN: dict[str, tuple[str, ...]] = {
    "scenes.options": ("length", "seed", "masks"),
    "refine.crops": ("predictions", "annotation_file", "image_folder"),
}


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """The complete config, checked, with every section; those that are not used are None.

    Raises:
        ConfigError: an unknown or missing option or component, one of `imports` that cannot be imported, or no single
            source of data; the message begins with the path in the config.
    """
    check_options(config, TOP_LEVEL, "config")
    given = [name for name in SOURCES if config.get(name) is not None]
    if len(given) != 1:
        raise ConfigError(
            f"config: needs one of the sections {', '.join(SOURCES)}, got {' and '.join(given) or 'none'}"
        )
    resolved = {**dict.fromkeys(TOP_LEVEL), **DEFAULTS, **config}
    resolved["imports"] = absolute_imports(config.get("imports", ()), Path.cwd())
    resolved["hooks"] = check_hooks(config.get("hooks", ()))
    import_components(resolved["imports"])
    for name in (given[0], "pseudo"):
        resolved[name] = _filled(config.get(name, {}), name)
        if "seed" in resolved[name] and resolved[name]["seed"] is None:
            resolved[name]["seed"] = resolved["seed"]
    for name in RUNS:
        if resolved[name] is None and name != "refine":
            raise ConfigError(f"config: section {name!r} is missing")
        if resolved[name] is not None:
            lists = {key: resolved[key] for key in LISTS if resolved[key]}
            resolved[name] = {**_run(resolved[name], name, resolved["seed"]), **lists}
    _check_values(resolved)
    _check_components(resolved, given[0])
    _check_refine(resolved)
    return resolved


def complete(config: dict[str, Any]) -> dict[str, Any]:
    """`resolve` with every option of the runs stated; what this gives can be resolved again."""
    resolved = resolve(config)
    for name in RUNS:
        if resolved[name] is not None:
            resolved[name] = _complete_run(resolved[name])
    return resolved


def override(config: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `config` with `"a.b=value"` settings applied, see `detkit.config.overrides.set_values`.

    Raises:
        ConfigError: as `set_values`.
    """
    return set_values(config, settings, _options)


def _options(path: Sequence[str], holder: Any) -> Iterable[str] | None:
    """See `detkit.config.overrides.Options`."""
    if not path:
        return TOP_LEVEL
    if ".".join(path) in FILLED_IN:
        return None
    if path[0] not in RUNS:
        return SECTIONS.get(path[0], ()) if len(path) == 1 else ()
    if len(path) > 1:
        return run_options(path[1:], holder)
    return (*RUN_KEYS, *REFINE) if path[0] == "refine" else RUN_KEYS


def _filled(section: Any, name: str) -> dict[str, Any]:
    options = SECTIONS[name]
    check_options(section, options, name)
    missing = [key for key, default in options.items() if default is REQUIRED and section.get(key) is None]
    if missing:
        raise ConfigError(f"{name}: option {missing[0]!r} is missing")
    filled = {**options, **section}
    filled |= {key: str(value) for key, value in filled.items() if key in PATHS and type(value) is int}
    check_types(filled, TYPES[name], name)
    return filled


def _run(section: Any, name: str, seed: int) -> dict[str, Any]:
    """A run's section, checked, with its seed."""
    check_options(section, (*RUN_KEYS, *(REFINE if name == "refine" else ())), name)
    try:
        check_sections(section)
    except ConfigError as error:
        raise error_inside(name, error) from error
    data, train = section.get("data", {}), section.get("train", {})
    for key in ("train", "val"):
        if key in data:
            raise ConfigError(f"{name}.data.{key}: the stages fill it in; leave it out")
    run = {key: value for key, value in section.items() if key not in REFINE}
    try:
        check_keys({**run, "data": {"train": None, **data}, "train": {"epochs": 1, **train}})
    except ConfigError as error:
        raise error_inside(name, error) from error
    if "epochs" not in train and train.get("max_steps") is None:
        raise ConfigError(f"{name}.train: needs epochs or max_steps")
    return {**section, "data": data, "train": {"seed": seed, **train}}


def _plain_run(section: dict[str, Any]) -> dict[str, Any]:
    """A run's section as a complete config, with datasets of None."""
    run = {key: value for key, value in section.items() if key not in REFINE}
    return resolve_config(run_config({**run, "train": {"epochs": 1, **run["train"]}}, None, None))


def _complete_run(section: dict[str, Any]) -> dict[str, Any]:
    """A run's section with every option stated."""
    run = _plain_run(section)
    for key in ("train", "val"):
        del run["data"][key]
    if "epochs" not in section["train"]:
        del run["train"]["epochs"]
    refine = {key: section[key] for key in REFINE if key in section}
    return {**refine, **{key: run[key] for key in RUN_KEYS}}


def _check_components(config: dict[str, Any], source: str) -> None:
    for name in RUNS:
        if config[name] is not None:
            try:
                check_components(_plain_run(config[name]))
            except ConfigError as error:
                raise error_inside(name, error) from error
    if source == "scenes":
        _check_arguments(config["scenes"]["options"], "SyntheticScenes", "scenes.options")


def _check_arguments(arguments: Any, component: str, path: str) -> None:
    """Check the arguments of a component at `path`, of which the stages fill in others."""
    if not isinstance(arguments, dict):
        raise ConfigError(f"{path}: expected a dict, got {arguments!r}")
    check({**arguments, "type": component}, path, FILLED_IN[path])


def _check_refine(config: dict[str, Any]) -> None:
    refine = config["refine"]
    if refine is None:
        return
    refine.setdefault("crops", {})
    _check_arguments(refine["crops"], "RefineCrops", "refine.crops")
    steps, train = refine.get("teacher_steps"), config["teacher"]["train"]
    check_value(steps, Annotated[Sequence[PositiveInt], MinLen(1)], "refine.teacher_steps")
    last = train.get("max_steps")
    if last is not None and max(steps) > last:
        raise ConfigError(f"refine.teacher_steps: {max(steps)} is beyond teacher.train.max_steps, {last}")
    crops, model = refine["crops"], refine["model"]
    if isinstance(model, dict) and model.get("type") == "MaskRefiner":
        one, other = crops.get("size", SIZE), model.get("size", SIZE)
        if one != other:
            raise ConfigError(f"refine.crops.size: is {one}, but refine.model.size is {other}; give both the same")
    if train.get("keep_steps"):
        raise ConfigError("teacher.train.keep_steps: follows from refine.teacher_steps; leave it out")


def _check_pseudo(config: dict[str, Any]) -> None:
    pseudo = config["pseudo"]
    source = next(name for name in SOURCES if config[name] is not None)
    if pseudo["prompt"] == "point_with_size" and not config[source].get("boxes", True):
        raise ConfigError(f"pseudo.prompt: 'point_with_size' needs boxes; set {source}.boxes=True, or choose 'point'")
    students = pseudo["students"]
    if len(set(students)) < len(students):
        raise ConfigError(f"pseudo.students: must name each kind once, got {students!r}")
    if list(students) == ["refined"] and config["refine"] is None:
        raise ConfigError("pseudo.students: 'refined' needs the section refine")


def _check_values(config: dict[str, Any]) -> None:
    _check_pseudo(config)
    check_value(config["seed"], Seed, "seed")
    check_value(config["bound"], bool, "bound")
    if config["bound"] and config["data"] is not None and config["data"]["truth"] is None:
        raise ConfigError("bound: needs the true masks of the weak images (data.truth)")
