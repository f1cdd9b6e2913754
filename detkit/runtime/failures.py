"""What ends a command through no fault of detkit, said in one line: memory, disk, lost processes."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)

MEMORY = "lower data.batch_size (train.accumulate keeps the size of a step), data.workers or the size of the images"
CONNECTION = ("Connection closed by peer", "gloo/transport", "NCCL communicator was aborted", "Timed out waiting")
# Parts of the messages of PyTorch, whose exceptions are all RuntimeErrors, and what they mean.
MEANINGS = (
    (("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED"), f"the GPU has not enough memory: {MEMORY}"),
    (("can't allocate memory", "not enough memory", "Cannot allocate memory"), f"not enough memory: {MEMORY}"),
    (
        ("unable to allocate shared memory", "bus error", "unable to write to file </torch_"),
        "the shared memory that data workers use (/dev/shm) is full: enlarge it, or lower data.workers",
    ),
    (
        ("Too many open files", "received 0 items of ancdata"),
        "too many open files: raise the limit (ulimit -n 4096), or lower data.workers",
    ),
    (
        ("can't start new thread", "Resource temporarily unavailable"),
        "the system starts no further thread or process: free some memory, raise the limit (ulimit -u), or lower "
        "data.workers",
    ),
    (
        ("DataLoader worker (pid", f"[Errno {errno.ECONNRESET}]", f"[Errno {errno.EPIPE}]"),
        "a process that loads data was ended from outside, most likely for want of memory: lower data.workers or "
        "data.batch_size",
    ),
    (CONNECTION, "another process of this run has ended or does not answer; its own message says why"),
)
FULL = (errno.ENOSPC, errno.EDQUOT)


def describe(error: BaseException) -> str | None:
    """One line on an error that a user can do something about; None for any other, which wants its traceback.

    Notes of the error (`add_note`), such as how to continue a run, follow its message.
    """
    text = _meaning(error)
    if text is None and isinstance(error, (ValueError, OSError, ArithmeticError)):
        text = _without_traceback(str(error))
    return None if text is None else "; ".join([text, *_notes(error)])


@contextlib.contextmanager
def threads_without_traceback() -> Iterator[None]:
    """Let what a user can do something about be a warning where it ends a thread; whoever waits for that fails too."""
    before = threading.excepthook

    def hook(raised: threading.ExceptHookArgs) -> None:
        text = None if raised.exc_value is None else describe(raised.exc_value)
        if text is None:
            before(raised)
        else:
            logger.warning("%s", text)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def is_of_connection(error: BaseException) -> bool:
    """Whether the connection to another process of the run has broken, or did not answer."""
    return isinstance(error, RuntimeError) and any(part in str(error) for part in CONNECTION)


def _notes(error: BaseException | None) -> list[str]:
    """Those of the error, or of the one during whose handling it arose: a dying worker may be reported twice."""
    while error is not None and not getattr(error, "__notes__", ()):
        error = error.__context__
    return [] if error is None else error.__notes__


def _meaning(error: BaseException) -> str | None:
    """What the messages of PyTorch and of the system mean, with the first line of the message."""
    text = _without_traceback(str(error))
    first = (text or type(error).__name__).splitlines()[0]
    if isinstance(error, MemoryError):
        return f"not enough memory: {MEMORY} ({first})"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full: free some space and repeat the command ({first})"
    if isinstance(error, (RuntimeError, OSError)) and not isinstance(error, NotImplementedError):
        for parts, meaning in MEANINGS:
            if any(part in text for part in parts):
                return f"{meaning} ({first[:200]})"
    return None


def _without_traceback(text: str) -> str:
    """The message alone of an error that a data worker has sent with its traceback."""
    if not (text.startswith("Caught ") and "in DataLoader worker process" in text):
        return text
    last = [line for line in text.splitlines() if line and not line.startswith(" ")][-1]
    return last.partition(": ")[2] or last
