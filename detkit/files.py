"""Atomic writing: an interruption never leaves a half-written file. And paths that are none, but URLs."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

LEFTOVER = re.compile(r"\.(\d{1,10})(?:@([\w-]*))?\.tmp$")
FOREIGN_SECONDS = 3600.0
STARTED = time.time()
_CLEANED: set[Path] = set()  # folders


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a temporary file beside `path`, then put it in the place of `path` in one move.

    The file has the permissions of any new file (the umask), whatever `write` gives it. The first file of this process
    in a folder removes what dead processes left there, see `remove_leftovers`.

    Raises:
        OSError: it cannot be written, for example because the disk is full; `path` is as it was.
    """
    path = Path(path)
    if path.parent not in _CLEANED:
        _CLEANED.add(path.parent)
        remove_leftovers(path.parent)
    name = os.fsencode(path.name)[:120].decode(errors="ignore")
    temporary = path.with_name(f".{name}.{os.getpid()}@{_host()}.tmp")
    try:
        temporary.touch()
        mode = stat.S_IMODE(temporary.stat().st_mode)
        write(temporary)
        temporary.chmod(mode)
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        if (explained := unwritable(path, error)) is error:
            raise
        raise explained from error
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _sync(path.parent, os.O_RDONLY)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of `write_atomically` in `folder` whose process is dead.

    Of processes on other machines it removes those that nobody has written to for an hour.
    """
    for path in Path(folder).glob(".*.tmp"):
        if (found := LEFTOVER.search(path.name)) and _is_abandoned(path, int(found[1]), found[2]):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, process: int, host: str | None) -> bool:
    try:
        written = path.stat().st_mtime
        if host not in (None, _host()):
            return time.time() - written > FOREIGN_SECONDS
        if process == os.getpid():  # of an earlier process with this number?
            return written < STARTED
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it vanished meanwhile, or the process is somebody else's
        return False
    return False


def _host() -> str:
    return re.sub(r"[^\w-]", "_", platform.node())[:40]


def append_line(path: Path, line: str) -> None:
    """Append `line` and a line end to a file in UTF-8; if that fails, the file is as it was."""
    data = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            file.truncate(size)
            raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> Exception:
    """What was raised while `path` was written, as an error that names it and says why.

    PyTorch and safetensors do not say which file, nor always why.
    """
    code, reason = getattr(error, "errno", None), str(error).splitlines()[0]
    of_file = any(part in str(error) for part in ("PytorchStreamWriter", "inline_container"))
    of_network = isinstance(error, (ConnectionError, TimeoutError)) or (isinstance(error, OSError) and code is None)
    if of_network or (isinstance(error, RuntimeError) and not of_file):
        return error  # nothing to do with the file
    if code is None and ("os error 28" in reason or shutil.disk_usage(path.parent).free < 2**20):
        code = errno.ENOSPC
    if code in (errno.ENOSPC, errno.EDQUOT):
        return OSError(code, "no space left to write it", str(path))
    if isinstance(error, OSError) and error.errno and LEFTOVER.search(str(error.filename)):
        return OSError(error.errno, error.strerror, str(path))
    return error if isinstance(error, OSError) and error.filename else OSError(f"{path} cannot be written: {reason}")


def _sync(path: Path, access: int) -> None:
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as compact json, atomically."""
    write_text(path, json.dumps(content, separators=(",", ":")))


def refuse_to_overwrite(paths: Iterable[Path]) -> None:
    """Raise a ValueError that names those of `paths` that exist already."""
    if present := [str(path) for path in paths if path.exists()]:
        raise ValueError(f"{', '.join(present)} exist already: choose another folder, or replace them with --force")


def as_url(path: Any) -> str | None:
    """The URL that a path stands for, which turns // into /; None if it is none."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+", str(path))
    if match is None or "://" in str(path):
        return None if match is None else str(path)
    return f"{match[1]}://{str(path)[match.end() :]}"


def refuse_url(path: Any, kind: str = "file") -> None:
    """Raise a ValueError where a local path is wanted and a URL is given.

    Args:
        kind: what the path is to be: "file", "image", "folder".
    """
    if url := as_url(path):
        raise ValueError(f"{url} is a URL: download the {kind} and give its path")
