"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

BAR_WIDTH = 20


class Console:
    """Writes lines, and on a terminal one bar below them; to nowhere for `stream=None`."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream
        self.is_terminal = stream is not None and stream.isatty()
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
