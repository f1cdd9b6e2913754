"""What kind of file something is, seen from its content, and whether it is complete: weights, or an image."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ZIP, SAFETENSORS, PICKLE, TAR = "zip", "safetensors", "pickle", "tar"
HEAD_BYTES = 1024  # what `kind_of` looks at
LARGEST_IMAGE = 200_000_000  # bytes
# How the formats of detkit.images.IMAGE_SUFFIXES begin; those of INSIDE have their mark behind so many bytes.
IMAGES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\xff\x4f\xff\x51",
)
INSIDE = ((8, b"WEBP"), (4, b"ftypavif"), (4, b"ftypavis"), (4, b"jP  "))
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def kind_of(head: bytes) -> str | None:
    """The kind of a weight file by its first bytes: ZIP (torch, npz), SAFETENSORS, PICKLE (old torch), TAR; or None."""
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return SAFETENSORS
    return TAR if head[257:262] == b"ustar" else None


def no_weights(head: bytes) -> str | None:
    """Why a file that begins with `head` holds no weights, and what to do; None if it may hold some."""
    if not head:
        return "is empty"
    if kind_of(head) is not None:
        return None
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
        return "is compressed: unpack it first (gunzip, bunzip2, unxz)"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the weights themselves: `git lfs pull` fetches them"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<script")):
        return "is an HTML page, not weights: take the link of the file itself (its download button)"
    if text.startswith((b"<", b"{", b"[")) or all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"is text, not weights: it begins with {head[:40].decode(errors='replace')!r}"
    return None


def why_no_weights(path: str | Path) -> str | None:
    """`no_weights` of a file."""
    with Path(path).open("rb") as file:
        return no_weights(file.read(HEAD_BYTES))


def kind_of_file(path: str | Path) -> str | None:
    """`kind_of` a file."""
    with Path(path).open("rb") as file:
        return kind_of(file.read(HEAD_BYTES))


def damage(path: Path) -> str | None:
    """What is wrong with a downloaded weight file; None for a complete one, "" where its kind cannot tell."""
    kind = kind_of_file(path)
    if kind == ZIP:
        return _damage_of_zip(path)
    if kind == SAFETENSORS:
        return _damage_of_safetensors(path)
    return ""


def _damage_of_zip(path: Path) -> str | None:
    """Compares the checksums that a zip file has of its entries."""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return f"is truncated or damaged ({error})"
    return None if broken is None else f"is damaged: its entry {broken} has another checksum"


def _damage_of_safetensors(path: Path) -> str | None:
    """Compares the size with the end of the last tensor."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        return f"is truncated or damaged (its header cannot be read: {type(error).__name__})"
    size = os.path.getsize(path)
    return None if size == expected else f"is truncated or damaged: it has {size} bytes, by its header {expected}"


@dataclass(frozen=True)
class Kind:
    """What a download is to be.

    Attributes:
        unfit: why a file that begins with these bytes is of another kind, and what to do; None if it may be of this.
        damage: what is wrong with a complete file; None where nothing is, "" where its kind cannot tell.
        largest: bytes; None where only the general limit counts.
    """

    unfit: Callable[[bytes], str | None]
    damage: Callable[[Path], str | None]
    largest: int | None = None


def no_image(head: bytes) -> str | None:
    """Why a file that begins with `head` is no image; None if it may be one."""
    if not head:
        return "is empty"
    if head.startswith(IMAGES) or any(head.startswith(mark, at) for at, mark in INSIDE):
        return None
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<script")):
        return "is an HTML page, not an image: take the address of the image itself"
    return f"is no image: it begins with {head[:20]!r}"


WEIGHTS = Kind(no_weights, damage)
IMAGE = Kind(no_image, lambda path: None, LARGEST_IMAGE)  # what is wrong shows when it is decoded
