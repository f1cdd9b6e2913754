"""Ctrl-C and SIGTERM outside of a training."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM raise a KeyboardInterrupt, so that what holds a file or a lock can let go of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a data worker that inherited this
            os._exit(128 + number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_at_once_on_ctrl_c() -> None:
    """While modules are imported there is nothing to tidy up, and an interrupted import may fail in any way."""

    def handle(number: int, frame: Any) -> None:
        os.write(2, b"stopped\n")
        os._exit(130)

    signal.signal(signal.SIGINT, handle)
