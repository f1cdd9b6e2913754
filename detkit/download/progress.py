"""How far a download is."""

from __future__ import annotations

import os
import sys
import time

from detkit.console import Console, format_seconds

LINE_EVERY = 10.0  # seconds between lines where there is no bar


class DownloadProgress:
    """Shows the progress of a download: a bar on a terminal, otherwise a line every ten seconds.

    Args:
        total: bytes to come; None where the server does not say.
    """

    def __init__(self, url: str, total: int | None):
        self.total, self.done = total, 0
        self.console = Console(sys.stderr if os.environ.get("RANK", "0") == "0" else None)
        self._start = self._reported_at = time.monotonic()
        self.console.line(f"downloading {url}" + (f" ({megabytes(total)})" if total is not None else ""))

    def update(self, size: int) -> None:
        """Count `size` more bytes and show how far the download is."""
        self.done += size
        if self.console.is_terminal:
            self.console.bar(self.done / self.total if self.total else 0.0, self._text())
        elif time.monotonic() - self._reported_at > LINE_EVERY:
            self._reported_at = time.monotonic()
            self.console.line(self._text())

    def finish(self) -> None:
        """Print the size and the time of the whole download."""
        self.console.line(f"{megabytes(self.done)} in {format_seconds(time.monotonic() - self._start)}")

    def _text(self) -> str:
        if not self.total:
            return megabytes(self.done)
        left = (time.monotonic() - self._start) * (self.total / self.done - 1)
        return f"{megabytes(self.done)} of {megabytes(self.total)}, {format_seconds(left)} left"


def megabytes(size: int) -> str:
    """ "1.5 MB"."""
    return f"{size / 1e6:.1f} MB"
