"""Files from the web: weights, downloaded once into a cache folder, and images."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from detkit.download.alone import alone
from detkit.download.checksums import digest, record, record_of, recorded
from detkit.download.kinds import HEAD_BYTES, WEIGHTS, Kind
from detkit.download.progress import DownloadProgress, megabytes
from detkit.download.published import address, advice
from detkit.files import write_atomically

CHUNK_BYTES = 1 << 18
TIMEOUT = 30.0  # seconds without a byte


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
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    if sha256 is not None:
        _compare(path, digest(path), _checked(sha256))
    return path


def fetch(url: str, *, sha256: str | None = None, cache: str | Path | None = None, kind: Kind = WEIGHTS) -> Path:
    """Download a file, unless it was downloaded before; of several processes of a machine one does it.

    The file appears in the cache only when it is complete: its size is compared with what the server and the file
    itself say. Its checksum is recorded. A cached file with another checksum than `sha256`, or without that than the
    recorded one, or a damaged one, is downloaded again. The models of `detkit.download.published` come from
    $DETKIT_MIRROR where it is set.

    Args:
        url: begins with http:// or https://; may end in `#sha256=HEX` instead of giving `sha256`.
        sha256: what the file must have, 64 hex digits.
        cache: the folder; None takes `cache_folder()`.
        kind: what the file must be, see `detkit.download.kinds`.

    Raises:
        DownloadError: no connection, an HTTP error, a transfer that broke off, a web page or anything else of another
            kind, more than `largest_download()` or than the kind allows, or another checksum.
        ValueError: not an http(s) URL, or not a checksum.
    """
    if not is_url(url):
        raise ValueError(f"not an http(s) URL: {url!r}")
    url, expected = _without_checksum(url, sha256)
    path = Path(cache or cache_folder()) / cached_name(url)
    if path.is_file() and _is_intact(path, expected, kind):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path, f"downloads {url}"):
            if not (path.is_file() and _is_intact(path, expected, kind)):
                write_atomically(path, lambda temporary: _download(url, temporary, expected, kind, path))
                record(path)
    except urllib.error.HTTPError as error:
        raise _failed(url, f"HTTP status {error.code} {_first_line(error.reason)}", path) from error
    except urllib.error.URLError as error:
        raise _failed(url, f"no connection ({error.reason})", path) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise _failed(url, f"{type(error).__name__}: {error}", path) from error
    return path


def answers(url: str, seconds: float = 5.0) -> bool:
    """Whether a web server answers for `url` within so many seconds, with whatever it has to say."""
    found: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "detkit"})
        try:
            urllib.request.urlopen(request, timeout=seconds).close()
            found.append(True)
        except urllib.error.HTTPError:
            found.append(True)
        except (OSError, http.client.HTTPException, UnicodeError, ValueError):
            pass

    asking = threading.Thread(target=ask, daemon=True)  # a name server that is silent has a patience of its own
    asking.start()
    asking.join(seconds)
    return bool(found)


def _failed(url: str, reason: str, path: Path) -> DownloadError:
    asked = "" if address(url) == url else f", asked for at {address(url)}"
    return DownloadError(f"cannot download {url}{asked}: {reason}; {advice(url, path)}")


def _first_line(text: object) -> str:
    return next(iter(str(text).splitlines()), "")


def largest_download() -> int:
    """The most bytes that a download may have: $DETKIT_MAX_DOWNLOAD_GB, by default 10 GB.

    Raises:
        ValueError: the variable is no positive number.
    """
    text = os.environ.get("DETKIT_MAX_DOWNLOAD_GB") or "10"
    try:
        return int(float(text) * 1e9) if float(text) > 0 else int("")
    except (ValueError, OverflowError):
        raise ValueError(f"DETKIT_MAX_DOWNLOAD_GB must be a positive number of gigabytes, got {text!r}") from None


def _limit(kind: Kind) -> int:
    return largest_download() if kind.largest is None else min(kind.largest, largest_download())


def cached_name(url: str) -> str:
    """The file name of the URL with a short hash of the whole URL before its suffix."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
    stem, suffix = os.path.splitext(re.sub(r"[^\w.-]", "_", name).lstrip("."))
    return f"{stem[:80] or 'file'}-{hashlib.sha256(url.encode()).hexdigest()[:8]}{suffix[:20]}"


def _without_checksum(url: str, sha256: str | None) -> tuple[str, str | None]:
    """The URL without its fragment, and the checksum that it or `sha256` states."""
    url, _, fragment = url.partition("#")
    if sha256 is None and fragment.startswith("sha256="):
        sha256 = fragment.removeprefix("sha256=")
    return url, None if sha256 is None else _checked(sha256)


def _is_intact(path: Path, expected: str | None, kind: Kind) -> bool:
    """Whether a cached file is the wanted one, or without a checksum: what an unbroken download would have left."""
    if (wanted := expected or recorded(path)) is not None:
        return digest(path) == wanted
    if _problem(path, kind) not in (None, ""):
        return False
    record(path)  # put here by hand, or before checksums were kept
    return True


def _problem(path: Path, kind: Kind) -> str | None:
    """Why a complete file is not of the kind, or damaged; "" where its content cannot tell."""
    with path.open("rb") as file:
        unfit = kind.unfit(file.read(HEAD_BYTES))
    return kind.damage(path) if unfit is None else unfit


def _download(url: str, path: Path, expected: str | None, kind: Kind, place: Path) -> None:
    """Download to `path`, a temporary file; `place` is where the file will be, or was before."""
    request = urllib.request.Request(address(url), headers={"User-Agent": "detkit"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        length, knows_end = _length(url, response, kind), response.headers.get("Transfer-Encoding") is not None
        progress = DownloadProgress(url, length)
        _receive(url, response, path, progress, kind)
    if length is not None and progress.done != length:
        raise DownloadError(f"cannot download {url}: it ended after {progress.done} of {length} bytes")
    if expected is not None:
        return _compare(url, digest(path), expected)
    if (first := recorded(place)) is not None and digest(path) != first:
        raise DownloadError(
            f"{url} is another file than at its first download, when it had the SHA-256 checksum {first}; if the new "
            f"one is right, remove {record_of(place)}"
        )
    problem = _problem(path, kind)
    if problem == "" and length is None and not knows_end:
        problem = "may be truncated, the server does not say how long it is: give its checksum, as URL#sha256=HEX"
    if problem:
        raise DownloadError(f"cannot use {url}: what came {problem}")


def _length(url: str, response: http.client.HTTPResponse, kind: Kind) -> int | None:
    """How many bytes the server says will come; None if it does not."""
    if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise DownloadError(f"cannot use {url}: what came {kind.unfit(b'<html')}")
    text, limit = response.headers.get("Content-Length"), _limit(kind)
    if text is None or response.headers.get("Transfer-Encoding") is not None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise DownloadError(f"cannot download {url}: the server sent the Content-Length {text[:40]!r}")
    if int(text) > limit:
        raise DownloadError(_too_large(url, limit, int(text)))
    return int(text)


def _receive(url: str, response: http.client.HTTPResponse, path: Path, progress: DownloadProgress, kind: Kind) -> None:
    limit = _limit(kind)
    with path.open("wb") as file:
        while chunk := response.read(CHUNK_BYTES):
            if not progress.done and (problem := kind.unfit(chunk[:HEAD_BYTES])):
                raise DownloadError(f"cannot use {url}: what came {problem}")
            file.write(chunk)
            progress.update(len(chunk))
            if progress.done > limit:
                raise DownloadError(_too_large(url, limit))
    progress.finish()


def _too_large(url: str, limit: int, size: int | None = None) -> str:
    has = "it is larger than" if size is None else f"it has {megabytes(size)}, more than"
    more = "DETKIT_MAX_DOWNLOAD_GB allows more" if limit == largest_download() else "get it yourself and give its path"
    return f"cannot download {url}: {has} {megabytes(limit)}; {more}"


def _checked(sha256: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"not a SHA-256 checksum (64 hex digits): {sha256!r}")
    return sha256.lower()


def _compare(source: str | Path, found: str, expected: str) -> None:
    if found != expected:
        raise DownloadError(f"{source} has the SHA-256 checksum {found}, expected {expected}")
