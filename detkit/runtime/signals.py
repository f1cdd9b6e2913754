"""Ending a run between two steps when someone presses Ctrl-C or a cluster sends SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def calling_on_stop_signal(stop: Callable[[], Any]) -> Iterator[None]:
    """Call `stop` on Ctrl-C or SIGTERM; a second Ctrl-C interrupts at once. Only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != process:  # a data loading worker inherits the handler, and ends with the run
            return
        logger.warning("%s: stopping after this step", signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shielded(loader: DataLoader) -> DataLoader:
    """`loader`, whose workers outlive a SIGTERM that a cluster sends to all processes at once.

    Without this they would die while the training process still finishes its step. They end when it does.
    """
    if hasattr(signal, "sigwaitinfo"):
        loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)
    return loader


def _init_worker(inner: Callable[[int], Any] | None, worker: int) -> None:
    if inner is not None:
        inner(worker)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_when_the_parent_says_so, args=(os.getppid(),), daemon=True).start()


def _exit_when_the_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
