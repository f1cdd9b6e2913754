"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

BAR_WIDTH = 20
LINE_EVERY = 20.0  # seconds


class Console:
    """Writes lines, and on a terminal one bar below them; to nowhere for `stream=None`."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream
        self.is_terminal = stream is not None and stream.isatty()
        self._started_at = self._lined_at = time.monotonic()
        self._drawn_at = 0.0
        self._has_bar = False

    def line(self, text: str) -> None:
        """Write a line of its own (or several)."""
        if self.stream is not None:
            self.clear()
            print(text, file=self.stream, flush=True)

    def bar(self, fraction: float, text: str) -> None:
        """Draw the bar, at most ten times a second; nothing where the output is no terminal."""
        if self.stream is None or not self.is_terminal or (time.monotonic() - self._drawn_at < 0.1 and fraction < 1):
            return
        self._drawn_at, self._has_bar = time.monotonic(), True
        done = round(BAR_WIDTH * fraction)
        line = f"[{'#' * done}{'.' * (BAR_WIDTH - done)}] {text}"
        self.stream.write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1])
        self.stream.flush()

    def progress(self, fraction: float, text: str) -> None:
        """Show the progress in 0..1 and the time left: by the bar, or without a terminal by a line every 20 seconds."""
        now = time.monotonic()
        left = (now - self._started_at) * (1 / fraction - 1) if fraction else 0.0
        text = f"{text}, {format_seconds(left)} left"
        if self.is_terminal:
            self.bar(fraction, text)
        elif now - self._lined_at >= LINE_EVERY:
            self._lined_at = now
            self.line(text)

    def clear(self) -> None:
        """Remove the bar."""
        if self.stream is not None and self._has_bar:
            self.stream.write("\r\033[K")
            self._has_bar = False


def format_seconds(seconds: float) -> str:
    """ "1:02:03" or "2:03"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """A context in which nothing is logged but errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
