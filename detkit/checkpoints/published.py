"""Published models by name: downloaded once, converted, and kept as detkit checkpoints in the cache."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from detkit.checkpoints.convert import convert_checkpoint
from detkit.checkpoints.header import CheckpointError
from detkit.config import SHORT_NAMES
from detkit.download.alone import alone
from detkit.download.checksums import digest, record, recorded
from detkit.download.fetch import cache_folder, cached_name
from detkit.download.published import PUBLISHED, Published
from detkit.registry import nearest

logger = logging.getLogger(__name__)


def is_name(path: str | Path) -> bool:
    """Whether this can be the name of a published model: a word, neither a path nor the name of a file."""
    return re.fullmatch(r"\w+", str(path)) is not None


def is_published(name: str | Path) -> bool:
    """Whether this is the name, or the short name, of a published model that is a whole detector."""
    entry = PUBLISHED.get(SHORT_NAMES.get(str(name), str(name)))
    return entry is not None and not entry.is_body


def published_checkpoint(name: str) -> Path:
    """The detkit checkpoint of a published model, which is downloaded and converted if it is not in the cache.

    Its checksum is recorded beside it. Where it has another one, it is converted again.

    Raises:
        CheckpointError: no such name; the nearest one is suggested. Or the name of a body, which is no whole model.
        DownloadError: the file cannot be had; the message says what to do.
    """
    entry = find_published(name)
    path = converted_path(entry)
    if _is_intact(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path, f"converts {entry.name}"):
        if not _is_intact(path):
            convert_checkpoint(entry.url, path, force=True)
            record(path)
    return path


def find_published(name: str) -> Published:
    """The published detector of a name or short name (`vidt_plus_swin_n`).

    Raises:
        CheckpointError: there is none, or it is a body.
    """
    long_name = SHORT_NAMES.get(name, name)
    if long_name not in PUBLISHED:
        hint = nearest(name, PUBLISHED) or ";"
        raise CheckpointError(
            f"{name} is neither a file, nor the folder of a run, nor a published model{hint} `detkit list models` "
            "shows the names"
        )
    if PUBLISHED[long_name].is_body:
        raise CheckpointError(f"{name} is a body, not a whole model: name it as model.backbone.pretrained of a config")
    return PUBLISHED[long_name]


def converted_path(entry: Published) -> Path:
    """Where the cache has, or will have, the detkit checkpoint of a published model."""
    return cache_folder() / "models" / f"{entry.name}.safetensors"


def is_here(entry: Published) -> bool:
    """Whether the cache has a published model, or its authors' file."""
    places = (cache_folder() / cached_name(entry.url), *([] if entry.is_body else [converted_path(entry)]))
    return any(place.is_file() for place in places)


def _is_intact(path: Path) -> bool:
    """Whether the cache has a file as it was written."""
    if not path.is_file():
        return False
    known = recorded(path)
    if known is None:
        record(path)
    elif digest(path) != known:
        logger.warning("%s was damaged or altered: it is made again from the authors' file", path)
        return False
    return True
