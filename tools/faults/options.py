"""Every option of configs misspelt, and with eight wrong values: what is refused, and how.

    python tools/faults.py options [CONFIG ...]

Without names all configs that come with detkit are tried. A refusal is good if it is one line that names the path of
the option and says what is allowed (for a misspelt one: what was meant). What is accepted is built, and listed. Exit
code 1 where a refusal is raw or vague.
"""

import argparse
import copy
import functools
import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from detkit.cli.configs import command_of
from detkit.config import LISTS, config_names, load_config, resolve_config
from detkit.engine.schedules import build_schedule
from detkit.pipelines.matchme import config as matchme
from detkit.pipelines.training import error_inside
from detkit.pipelines.wssis import config as wssis
from detkit.registry import ConfigError, accepted_arguments, build, lookup
from detkit.registry.values import describe, option_marks
from detkit.runtime.components import ADDED, build_datasets, build_model, check_components, import_components
from detkit.structures import LabelMap

HUGE = 10**12
GIVEN = {name for names in ADDED.values() for name in names}
Path = tuple[str | int, ...]


class Fault(NamedTuple):
    """One change of a config."""

    path: Path  # of the option
    value: Any
    misspelt: str = ""  # the option is set under this name instead

    def applied(self, config: dict[str, Any]) -> dict[str, Any]:
        """A copy of the config with the change."""
        changed = copy.deepcopy(config)
        holder = functools.reduce(lambda inside, key: inside[key], self.path[:-1], changed)
        if self.misspelt:
            holder.pop(self.path[-1], None)
        holder[self.misspelt or self.path[-1]] = self.value
        return changed


class Option(NamedTuple):
    """An option of a config."""

    path: Path
    value: Any  # that it has, or its default
    owner: str  # the component or section that it belongs to
    allowed: str


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="faults.py options", description=__doc__.partition("\n")[0])
    parser.add_argument("configs", nargs="*", metavar="CONFIG", help="names or files (default: all of detkit)")
    names = parser.parse_args(arguments).configs or config_names()
    counts: Counter[str] = Counter()
    accepted: dict[str, None] = {}
    for name in names:
        for kind, text in judge_config(load_config(name)):
            counts[kind] += 1
            if kind == "accepted":
                accepted[text] = None
            elif kind != "good":
                print(f"{kind}: {name}: {text}")
    print("accepted, each as its option allows it:", *sorted(accepted), sep="\n  ")
    print(f"{len(names)} configs, {counts.total()} faults: {counts['good']} refused with a good line, ", end="")
    print(f"{counts['raw']} raw, {counts['vague']} vague, {counts['accepted']} accepted ({len(accepted)} different)")
    return 1 if counts["raw"] or counts["vague"] else 0


def judge_config(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """For each fault of each option "good", "raw", "vague" or "accepted", and a line about it."""
    import_components(config.get("imports", ()))
    check, config = checker(config)
    check(copy.deepcopy(config))
    for option in options_of(config):
        for fault in faults_of(option):
            yield judge(fault, option, config, check)


def checker(config: dict[str, Any]):
    """What the command of a config checks before it builds anything, and the config with what it leaves to the user."""
    command = command_of(config)
    if command == "train":
        return lambda changed: check_components(resolve_config(changed)), resolve_config(config)
    if command == "match":
        full = copy.deepcopy(config)
        full["rounds"] = {**matchme.ROUNDS, **full["rounds"]}
        return matchme.resolve, plain(full)
    filled = copy.deepcopy(config)
    for name in wssis.SOURCES:
        for key, default in wssis.SECTIONS[name].items():
            if name in filled and filled[name].get(key) is None:
                filled[name][key] = "photos" if isinstance(default, object) and default is wssis.REQUIRED else default
    return wssis.resolve, plain(filled)


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """The config of JSON types only, so that lists can be changed."""
    return json.loads(json.dumps(config))


def options_of(value: Any, path: Path = (), owner: str = "config") -> Iterator[Option]:
    """All options inside of a config; of components also those that are not stated."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, (dict, list)):
                yield from options_of(item, (*path, number), owner)
    if not isinstance(value, dict):
        return
    known: dict[str, Any] = {}
    if isinstance(value.get("type"), str) and path[-1:] != ("optimizer",):
        owner = value["type"]
        known = {k: p for k, p in accepted_arguments(lookup(owner)).items() if k not in GIVEN}
    elif path:
        owner = ".".join(map(str, path))
    for key in dict.fromkeys([*value, *known]):
        if key in LISTS or (key in value and value[key] is None and key in wssis.TOP_LEVEL and not path):
            continue
        parameter = known.get(key)
        allowed = describe(parameter.annotation) if parameter else ""
        stated = value[key] if key in value else known[key].default
        yield Option((*path, key), stated, owner, allowed)
        if key in value and not (parameter and option_marks(parameter.annotation)):
            yield from options_of(value[key], (*path, key), owner)


def faults_of(option: Option) -> Iterator[Fault]:
    """The option misspelt, and its wrong values."""
    key = option.path[-1]
    if isinstance(key, str):
        yield Fault(option.path, option.value, misspelt=f"{key[:-1]}{key[-1]}{key[-1]}x"[: len(key) + 1])
    other: Any = 3 if isinstance(option.value, str) else "3"
    for value in (-1, 0, HUGE, math.nan, other, "no", None, ["no"]):
        if value != option.value or type(value) is not type(option.value):
            yield Fault(option.path, value)


def judge(fault: Fault, option: Option, config: dict[str, Any], check: Any) -> tuple[str, str]:
    """Check, and where that accepts it, build."""
    where = ".".join(map(str, fault.path))
    what = f"{where} as {fault.misspelt}" if fault.misspelt else f"{where}={fault.value!r}"
    try:
        changed = fault.applied(config)
        check(changed)
        if not fault.misspelt:
            build_part(changed, fault, option)
    except ConfigError as error:
        return ("good" if is_good(str(error), fault) else "vague"), f"{what}: {error}"
    except Exception as error:
        return "raw", f"{what}: {type(error).__name__}: {error}"
    if fault.misspelt:
        return "vague", f"{what}: accepted"
    return "accepted", f"{option.owner}.{fault.path[-1]} {fault.value!r}: {reason(fault.value)}"


def reason(value: Any) -> str:
    """Why a value that a type allows is sense."""
    if value is None:
        return "off, or the default"
    if isinstance(value, (str, list)):
        return "a name, of a file, model, metric or class; it is looked up before the first step"
    return "off, or the lowest of the range" if value == 0 else "in the range"


def is_good(message: str, fault: Fault) -> bool:
    """One line with the path, and with what was meant or is allowed."""
    parents, key = ".".join(map(str, fault.path[:-1])) or "config", str(fault.path[-1])
    if "\n" in message or not message.removeprefix("config.").startswith((parents, key)):
        return False
    if fault.misspelt:
        return f"did you mean {key!r}" in message or key in message.partition("got")[0]
    return key in message or "nothing is registered as" in message


_built: dict[str, ConfigError | None] = {}  # what building with a value of an option raised


def build_part(config: dict[str, Any], fault: Fault, option: Option) -> None:
    """Build the part of a run that the fault is in; each value of each option once."""
    identity = f"{'.'.join(map(str, fault.path))} {option.owner} {fault.value!r}"
    run, path, outside = config, list(fault.path), []
    while path and path[0] in (*wssis.RUNS, "rounds"):
        run, path, outside = run[path[0]], path[1:], [*outside, path[0]]
    if not path or "pretrained" in path:
        return
    if identity not in _built:
        try:
            build_in(run, path)
            _built[identity] = None
        except ConfigError as error:
            _built[identity] = error_inside(".".join(outside), error) if outside else error
    if (error := _built[identity]) is not None:
        raise error


def build_in(run: dict[str, Any], path: list[str | int]) -> None:
    """Build what the path in a run's config leads into."""
    if path == ["data", "train"] and run["data"]["train"] is None:
        build_datasets(run["data"])
    elif path[0] == "model":
        build_model(without_files(run["model"]), LabelMap.numbered(3))
    elif path[0] == "schedule":
        schedule = {"epochs": 1, **run["train"]}
        optimizer = {"lr": 1e-4, **run.get("optimizer", {})}
        factor = build_schedule({"schedule": run["schedule"], "train": schedule, "optimizer": optimizer}, 10_000_000)
        assert all(math.isfinite(factor(step)) and factor(step) >= 0 for step in (0, 1, 5, 100_000))
    elif path[:2] == ["data", "transforms"] and len(path) > 2:
        build(run["data"]["transforms"][path[2]], ".".join(map(str, path[:-1])))


def without_files(model: Any) -> Any:
    """A model's config without weights to read."""
    if isinstance(model, dict):
        return {key: without_files(item) for key, item in model.items() if key != "pretrained"}
    return [without_files(item) for item in model] if isinstance(model, list) else model
