"""Checksums of files in the cache: recorded when a file first comes there, compared ever after.

The checksum of FILE is in FILE.sha256, as the program sha256sum writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path

from detkit.files import write_text


def digest(path: Path) -> str:
    """The SHA-256 checksum of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_of(path: Path) -> Path:
    """The file that holds the checksum of `path`."""
    return path.with_name(f"{path.name}.sha256")


def recorded(path: Path) -> str | None:
    """The checksum that was recorded for `path`, which may be gone; None where there is none."""
    try:
        found = re.match(r"[0-9a-f]{64}\b", record_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found[0] if found else None


def record(path: Path) -> None:
    """Record the checksum that `path` has now; a cache that cannot be written to stays as it is."""
    with contextlib.suppress(OSError):
        write_text(record_of(path), f"{digest(path)}  {path.name}\n")
