"""What the config of a stored model may name: parts of models, and nothing that reads files.

The header of a weight file is data from elsewhere. A model that is built from it must not open a file, a URL or another
checkpoint for it.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from detkit.backbones.pretrained import FILE_ARGUMENTS
from detkit.registry import ConfigError, lookup

# Packages whose components may be parts of a stored model.
PARTS = ("detkit.backbones.", "detkit.vidt.", "detkit.pointseg.", "detkit.correspondence.")


def without_files(value: Any, path: str) -> Any:
    """The config of a model without arguments that name files; its parts are those that models consist of.

    Args:
        value: the config of the model, or a value in it.
        path: of the value, for messages.

    Raises:
        ConfigError: a part of another kind, or an argument for timm that is neither a number nor a word.
    """
    if isinstance(value, (list, tuple)):
        return [without_files(item, f"{path}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("type"), str):
        _check_part(value["type"], path)
    kept = {key: without_files(item, f"{path}.{key}") for key, item in value.items() if key not in FILE_ARGUMENTS}
    for name, item in (kept.get("model_args") or {}).items() if isinstance(kept.get("model_args"), dict) else ():
        if not _is_plain(item):
            raise ConfigError(f"{path}.model_args.{name}: must be numbers or words in a stored model, got {item!r:.80}")
    return kept


def _check_part(name: str, path: str) -> None:
    """Check that a component may be part of a stored model: one of a system of detkit, or somebody's own."""
    component = lookup(name, path)
    if _reads_files(component):
        raise ConfigError(f"{path}: a {name} reads files and cannot be part of a stored model")
    if component.__module__.startswith("detkit.") and not component.__module__.startswith(PARTS):
        raise ConfigError(f"{path}: a {name} cannot be part of a model")


def _is_plain(value: Any) -> bool:
    """Numbers, truth values, None, words that are no paths, and lists of them."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float)) or _is_word(value)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w{0,40}", value) is not None


def _reads_files(component: Any) -> bool:
    """Whether this is a dataset or checkpoint of detkit: their arguments include a `Path`."""
    if not component.__module__.startswith("detkit."):
        return False
    return any("Path" in str(argument.annotation) for argument in inspect.signature(component).parameters.values())
