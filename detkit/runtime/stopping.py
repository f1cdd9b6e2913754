"""Ctrl-C and SIGTERM outside of a training."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BY_TORCHRUN = (
    b" by torchrun at its start: if a rank was lost, torchrun's report names it; repeat the command, with --resume if "
    b"it trains"
)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise a KeyboardInterrupt as Ctrl-C does, so that what holds a file or a lock can let go of it.

    While a module is imported either ends the process at once: an interrupted import may fail in any way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process and number == signal.SIGTERM:  # a data worker that inherited this
            os._exit(128 + number)
        if os.getpid() == process and _is_import(frame):
            _exit_at_once(number, frame)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_at_once_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the process with one line, while there is nothing to tidy up."""
    for number in SIGNALS:
        signal.signal(number, _exit_at_once)


def exit_as_rank(code: int) -> None:
    """End a process that torchrun has started, without the interpreter's tidying up: exit handlers, then the end.

    Threads that PyTorch keeps for the connection to other processes may still return into Python then. If it is being
    taken down they abort a process whose work is done, and torchrun calls the run failed.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _exit_at_once(number: int, frame: Any) -> None:
    by_torchrun = number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ
    os.write(2, b"stopped" + BY_TORCHRUN * by_torchrun + b"\n")
    os._exit(130)


def _is_import(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
