"""Reading and checking COCO json files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.config import missing_data_hint
from detkit.registry import suggest

COCO_KEYS: dict[str, dict[str, Any]] = {
    "images": {"id": int, "file_name": str, "width": (int, float), "height": (int, float)},
    "annotations": {"id": int, "image_id": int, "category_id": int, "bbox": object},
    "categories": {"id": int, "name": str},
}


def read_coco_file(path: Path) -> dict[str, Any]:
    """Read a COCO instances file and check that its parts are complete and refer to each other.

    Raises:
        ValueError: the file cannot be read, is not json (with the line), lacks a key, repeats an id, or has
            annotations of unknown images or categories; the message names the file and up to ten ids.
    """
    content = load_json(path)
    for section, keys in COCO_KEYS.items():
        check_section(content, section, keys, path)
    for key, section in (("image_id", "images"), ("category_id", "categories")):
        known = {item["id"] for item in content[section]}
        lost = [a for a in content["annotations"] if a[key] not in known]
        if lost:
            examples = ", ".join(f"annotation {a['id']} has {key} {a[key]}" for a in lost[:10])
            raise ValueError(f"{path}: {len(lost)} annotations refer to unknown {section}: {examples}")
    return content


def select_categories(categories: list[dict], classes: Sequence[str] | None) -> list[dict]:
    """The categories named by `classes` (all for None) in the order of their ids.

    Raises:
        ValueError: a name is unknown, or nothing is selected.
    """
    names = {c["name"] for c in categories}
    for name in classes or ():
        if name not in names:
            raise ValueError(f"no class {name!r}{suggest(name, names)}")
    selected = [c for c in categories if classes is None or c["name"] in classes]
    if not selected:
        raise ValueError("no classes" if classes is None else "classes is empty; leave it out to keep all")
    return sorted(selected, key=lambda c: c["id"])


def load_json(path: Path) -> Any:
    """The content of a json file.

    Raises:
        ValueError: the file cannot be read or is not json (with the line).
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not json: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read annotation file {path}: {error}{missing_data_hint(path)}") from error


def check_section(content: Any, section: str, keys: dict[str, Any], path: Path) -> None:
    """Check that a file has a list of items of that name, each with `keys` of the types given and an id of its own.

    Raises:
        ValueError: one that has not; the message names the file and the items.
    """
    items, name = content.get(section) if isinstance(content, dict) else None, f"{path}: {section}"
    if not isinstance(items, list):
        raise ValueError(f'{path}: no list "{section}"; a COCO file has {", ".join(COCO_KEYS)}')
    for position, item in enumerate(items):
        for key, kind in keys.items():
            if not isinstance(item, dict) or key not in item:
                raise ValueError(f"{name}[{position}] lacks {key!r}")
            if not isinstance(item[key], kind):
                raise ValueError(f"{name}[{position}] has {key} {item[key]!r}, which is of the wrong type")
    repeated = [i for i, count in Counter(item["id"] for item in items).items() if count > 1]
    if repeated:
        raise ValueError(f"{name} repeats {len(repeated)} ids: {', '.join(map(str, repeated[:10]))}")
