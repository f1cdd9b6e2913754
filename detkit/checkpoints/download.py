"""Files from the web, downloaded once into a cache folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from detkit.files import write_atomically
from detkit.runtime.console import Console, format_seconds
from detkit.runtime.processes import is_main

CHUNK_BYTES = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
LINE_EVERY = 10.0  # seconds between lines where there is no bar


class DownloadError(ValueError):
    """A file that could not be downloaded, or is not what was expected; the message names it."""


def is_url(source: str | Path) -> bool:
    """Whether `source` begins with http:// or https://."""
    return str(source).startswith(("http://", "https://"))


def cache_folder() -> Path:
    """$DETKIT_CACHE, or ~/.cache/detkit."""
    return Path(os.environ.get("DETKIT_CACHE") or Path.home() / ".cache" / "detkit")


def local_file(source: str | Path, *, sha256: str | None = None) -> Path:
    """The path of `source`, a file or a URL (see `fetch`).

    Raises:
        ValueError: no such file, another checksum, or see `fetch`.
    """
    if is_url(source):
        return fetch(str(source), sha256=sha256)
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    if sha256 is not None:
        _compare(path, _digest(path), _checked(sha256))
    return path


def fetch(url: str, *, sha256: str | None = None, cache: str | Path | None = None) -> Path:
    """Download a URL, unless it was downloaded before.

    The file appears in the cache only when it is complete. A cached file with another checksum than `sha256` is
    downloaded again.

    Args:
        url: begins with http:// or https://.
        sha256: what the file must have, 64 hex digits.
        cache: the folder; None takes `cache_folder()`.

    Raises:
        DownloadError: no connection, an HTTP error, a transfer that broke off, or another checksum.
        ValueError: not an http(s) URL, or not a checksum.
    """
    if not is_url(url):
        raise ValueError(f"not an http(s) URL: {url!r}")
    expected = None if sha256 is None else _checked(sha256)
    path = Path(cache or cache_folder()) / cached_name(url)
    if path.is_file() and (expected is None or _digest(path) == expected):
        return path
    path.unlink(missing_ok=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: _download(url, temporary, expected))
    except urllib.error.HTTPError as error:
        raise DownloadError(f"cannot download {url}: HTTP status {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"cannot download {url}: no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise DownloadError(f"cannot download {url}: {type(error).__name__}: {error}") from error
    return path


def cached_name(url: str) -> str:
    """The file name of the URL with a short hash of the whole URL before its suffix."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
    stem, suffix = os.path.splitext(re.sub(r"[^\w.-]", "_", name).lstrip("."))
    return f"{stem[:80] or 'file'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{suffix[:20]}"


def _download(url: str, path: Path, expected: str | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "detkit"})
    digest = hashlib.sha256()
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        progress = DownloadProgress(url, int(length) if length else None)
        while chunk := response.read(CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            progress.update(len(chunk))
    progress.finish()
    if progress.total is not None and progress.done != progress.total:
        raise DownloadError(f"cannot download {url}: it ended after {progress.done} of {progress.total} bytes")
    if expected is not None:
        _compare(url, digest.hexdigest(), expected)


class DownloadProgress:
    """Shows the progress of a download: a bar on a terminal, otherwise a line every ten seconds.

    Args:
        total: bytes to come; None where the server does not say.
    """

    def __init__(self, url: str, total: int | None):
        self.total, self.done = total, 0
        self.console = Console(sys.stderr if is_main() else None)
        self._start = self._reported_at = time.monotonic()
        self.console.line(f"downloading {url}" + (f" ({_megabytes(total)})" if total is not None else ""))

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
        self.console.line(f"{_megabytes(self.done)} in {format_seconds(time.monotonic() - self._start)}")

    def _text(self) -> str:
        if not self.total:
            return _megabytes(self.done)
        left = (time.monotonic() - self._start) * (self.total / self.done - 1)
        return f"{_megabytes(self.done)} of {_megabytes(self.total)}, {format_seconds(left)} left"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _checked(sha256: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"not a SHA-256 checksum (64 hex digits): {sha256!r}")
    return sha256.lower()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(source: str | Path, found: str, expected: str) -> None:
    if found != expected:
        raise DownloadError(f"{source} has the SHA-256 checksum {found}, expected {expected}")
