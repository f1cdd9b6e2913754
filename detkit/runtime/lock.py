"""One process at a time in a folder: the file `.lock` in it says which one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from detkit.registry import ConfigError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_held: dict[Path, int] = {}  # the process that holds each lock; a forked process knows that it is not the one


def is_transient(path: Path) -> bool:
    """Whether this is the lock of a folder, or a temporary file that a killed process left."""
    return path.name == LOCK or (path.name.startswith(".") and path.suffix == ".tmp")


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of `folder`, which is made if it is missing, and removed again if it stays empty.

    The system frees the lock when its process dies, however it dies. Where the file system has no locks, a warning
    says so.

    Raises:
        ConfigError: another process has it, or another thread of this one; the message says which. Or `folder` is a
            file, or cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    path, missing = folder / LOCK, [folder, *folder.parents]
    try:
        try:
            missing = [path for path in missing if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _take(path)
        except OSError as error:
            raise ConfigError(f"{_why_unusable(folder, error)}; name another folder (--out)") from error
        _held[path] = os.getpid()
        try:
            yield
        finally:
            del _held[path]
            with contextlib.suppress(OSError):  # it is gone already, or cannot be written any more
                path.unlink()
            os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            for made in missing:
                made.rmdir()


def _why_unusable(folder: Path, error: OSError) -> str:
    if files := [path for path in (folder, *folder.parents) if os.path.isfile(path)]:
        return f"{files[0]} is a file"
    return f"{str(folder)[:200]} cannot be written: {error.strerror}"


def _take(path: Path) -> int:
    """Open and lock the file, and write into it who holds it.

    The locks of POSIX belong to a process: those that it forks, such as data workers, do not prolong them.
    """
    if _held.get(path) == os.getpid():
        raise ConfigError(_in_use(path, "this process"))  # to open the file here would give its lock away
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise ConfigError(_in_use(path, _holder(path))) from error
        except OSError as error:
            logger.warning("%s: the file system has no locks (%s); start nothing else in this folder", path, error)
        if _is_still(path, descriptor):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            with contextlib.suppress(OSError):  # on a full disk the lock is empty, but holds
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()} since {since}".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder has removed it meanwhile


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if text := path.read_text(encoding="utf-8"):
            return text
    return "another process"


def _in_use(path: Path, holder: str) -> str:
    return f"{path.parent} is in use by {holder}: wait for its end, stop it, or name another folder (--out)"
