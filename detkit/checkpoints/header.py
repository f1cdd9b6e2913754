"""The header of a weight file: JSON text in its metadata, with checksums of itself and of the tensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SCHEMA = 1
DEEPEST = 40  # levels of lists and dicts inside of each other
TENSORS = "tensors_sha256"  # in the header
HEADER = "detkit_sha256"  # beside it
ALTERED = "the file was damaged or altered after it was written: copy or make it again"


class CheckpointError(ValueError):
    """A checkpoint file that cannot be used; the message names it and says why."""


def encode(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata of a safetensors file with these tensors."""
    return metadata_of({**header, "schema": SCHEMA, TENSORS: digest_of_tensors(tensors)})


def metadata_of(header: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a safetensors file with this complete header."""
    text = json.dumps(header)
    return {"format": "pt", "detkit": text, HEADER: _digest(text)}


def decode(metadata: Mapping[str, str], path: str | Path) -> dict[str, Any]:
    """The header in the metadata of `path`; what it has is of the types that detkit writes.

    Raises:
        CheckpointError: no header, one that was altered, one of another format or of a newer detkit.
    """
    if "detkit" not in metadata:
        raise CheckpointError(f"{path}: is a safetensors file but not a detkit checkpoint (no detkit header)")
    text = metadata["detkit"]
    if metadata.get(HEADER, _digest(text)) != _digest(text):
        raise CheckpointError(f"{path}: the header does not have its checksum: {ALTERED}")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).split(";")[0] if isinstance(error, ValueError) else "it is too deep"
        raise CheckpointError(f"{path}: its header cannot be read ({reason})") from error
    if _depth(header) > DEEPEST:
        raise CheckpointError(f"{path}: its header has lists and dicts more than {DEEPEST} levels deep")
    _check(header, path)
    if TENSORS in header and HEADER not in metadata:
        raise CheckpointError(f"{path}: the checksum of the header is missing: {ALTERED}")
    return header


def require(header: Mapping[str, Any], path: str | Path) -> None:
    """Check that a header has all that a model is rebuilt from.

    Raises:
        CheckpointError: it has not; what is missing is named.
    """
    missing = [name for name in ("config", "label_map", "input_rule") if name not in header]
    if missing:
        raise CheckpointError(f"{path}: its header lacks {', '.join(missing)}")


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 checksum of names, types, shapes and values of tensors on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def _check(header: Any, path: str | Path) -> None:
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is no dict but {_short(header)}")
    schema: Any = header.get("schema")
    if not _is_count(schema) or schema < 1:
        raise CheckpointError(f"{path}: its header has schema {_short(schema)}, expected a number from 1")
    if schema > SCHEMA:
        raise CheckpointError(f"{path}: has schema {schema}, this detkit reads up to {SCHEMA}; update detkit")
    for name, (is_right, expected) in FIELDS.items():
        if name in header and not is_right(header[name]):
            raise CheckpointError(f"{path}: {name} in its header must be {expected}, got {_short(header[name])}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _all(values: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(is_right, values))


def _is_config(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        return False
    return isinstance(value["model"].get("type"), str) and _all(value.get("imports", []), lambda v: isinstance(v, str))


def _is_label_map(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"names", "category_ids"}:
        return False
    names, ids = value["names"], value["category_ids"]
    if not _all(names, lambda name: name is None or isinstance(name, str)):
        return False
    return _all(ids, lambda i: type(i) is int and abs(i) < 2**63) and len(names) == len(ids) == len(set(ids)) > 0


def _is_input_rule(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() - {"shortest", "longest", "multiple", "mean", "std"}:
        return False
    sizes = [size for name, size in value.items() if name not in ("mean", "std")]
    if not all(_is_count(size) and 0 < size < 100_000 for size in sizes):
        return False
    colours = [value[name] for name in ("mean", "std") if name in value]
    if not all(_all(colour, _is_number) and len(colour) == 3 for colour in colours):
        return False
    # Far beyond pixel values, which are 0 to 1 here, but so that nothing overflows.
    sound = all(1e-6 <= deviation <= 1e6 for deviation in value.get("std", []))
    return sound and all(abs(mean) <= 1000 for mean in value.get("mean", []))


def _is_str_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "config": (_is_config, "a config with a model that has a type, and imports that are strings"),
    "label_map": (_is_label_map, "names (strings or null) and as many different category_ids (integers)"),
    "input_rule": (
        _is_input_rule,
        "shortest, longest, multiple (1 to 99999), mean and std (3 numbers, std above 0)",
    ),
    "aliases": (_is_str_dict, "a dict of names of tensors"),
    "metrics": (
        lambda value: isinstance(value, dict) and all(type(v) in (int, float) for v in value.values()),
        "a dict of numbers",
    ),
    "thresholds": (
        lambda value: isinstance(value, dict) and all(_is_number(v) and 0 <= v <= 1 for v in value.values()),
        "a dict of class names and scores from 0 to 1",
    ),
    "step": (_is_count, "a number from 0"),
    "epoch": (_is_count, "a number from 0"),
    "pair": (lambda value: isinstance(value, str), "text"),
    "trainer_sha256": (lambda value: isinstance(value, str), "text"),
    TENSORS: (lambda value: isinstance(value, str), "text"),
}


def check_aliases(aliases: Mapping[str, str], tensors: Iterable[str], path: str | Path) -> None:
    """Check that other names of tensors are new, and name tensors that there are.

    Raises:
        CheckpointError: they do not.
    """
    known = set(tensors)
    wrong = [alias for alias, name in aliases.items() if alias in known or name not in known]
    if wrong:
        raise CheckpointError(f"{path}: aliases in its header do not fit its tensors: {', '.join(wrong[:5])}")


def _short(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 10**30:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
