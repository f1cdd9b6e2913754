import gzip
import hashlib
import http.server
import io
import os
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from file_server import serving
from processes import run_process, wait_for
from safetensors.torch import save

from detkit.backbones.pretrained import read_state_dict
from detkit.download.fetch import DownloadError, cache_folder, cached_name, fetch, local_file

CONTENT = b"\x80\x02" + bytes(range(256)) * 3000  # begins as a pickle does
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        if self.path == "/moved.pth":
            self.send_response(302)
            self.send_header("Location", "/weights.pth")
            self.end_headers()
        elif self.path == "/slow.pth":
            self.server.slow.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
        elif self.path.startswith(("/weights.pth", "/unknown_length", "/short.pth")):
            self.send_response(200)
            if not self.path.startswith("/unknown_length"):
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:5000] if self.path == "/short.pth" else CONTENT)
        elif self.path in self.server.pages:
            self.wfile.write(self.server.pages[self.path])
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch, Handler, pages={}) as server:
        yield server


def files(folder):
    """The names of the files in a folder, other than those of checksums."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".sha256")


@pytest.mark.parametrize("path", ["/weights.pth", "/moved.pth", "/unknown_length"])
def test_a_file_is_downloaded_once(server, tmp_path, capsys, path):
    found = fetch(server.url + path, sha256=SHA256.upper(), cache=tmp_path / "new" / "cache")
    assert found.read_bytes() == CONTENT and files(tmp_path) == [found.name]
    shown = capsys.readouterr().err
    assert f"downloading {server.url}{path}" in shown and "0.8 MB in 0:00" in shown
    before = len(server.requested)
    assert fetch(server.url + path, sha256=SHA256, cache=tmp_path / "new" / "cache") == found
    assert len(server.requested) == before and capsys.readouterr().err == ""


def test_one_of_several_processes_downloads(server, tmp_path):
    server.slow = threading.Event()
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    cache = tmp_path / "cache"
    ranks = [run_process(lambda: print(fetch(f"{server.url}/slow.pth", cache=cache)), log) for log in logs]
    deadline = time.monotonic() + 60
    while sum("waiting for another" in log.read_text() for log in logs if log.exists()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.slow.set()
    assert wait_for(ranks) == [0, 0, 0]
    assert server.requested == ["/slow.pth"] and files(cache) == [cached_name(f"{server.url}/slow.pth")]
    assert sum("downloading" in log.read_text() for log in logs) == 1


def test_the_cache_is_chosen_by_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    assert fetch(f"{server.url}/weights.pth").parent == tmp_path / "cache"
    monkeypatch.delenv("DETKIT_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/detkit")


def test_names_in_the_cache():
    names = [cached_name(f"https://a.org/{end}") for end in ("x/w.pth", "y/w.pth", "w.pth?v=2", "..%2F..%2Fw.pth", "")]
    assert all(name.startswith("w-") and name.endswith(".pth") for name in names[:3])
    assert len(set(names)) == 5
    assert not any("/" in name or name.startswith(".") for name in names)
    assert names[4].startswith("file-")


def test_a_wrong_checksum_leaves_no_file(server, tmp_path):
    with pytest.raises(DownloadError, match=rf"weights.pth has the SHA-256 checksum {SHA256}, expected {'0' * 64}"):
        fetch(f"{server.url}/weights.pth", sha256="0" * 64, cache=tmp_path)
    assert files(tmp_path) == []
    with pytest.raises(ValueError, match=r"not a SHA-256 checksum \(64 hex digits\): 'abc'"):
        fetch(f"{server.url}/weights.pth", sha256="abc", cache=tmp_path)


def test_a_cached_file_with_another_checksum_is_replaced(server, tmp_path):
    path = tmp_path / cached_name(f"{server.url}/weights.pth")
    path.write_bytes(b"\x80\x02older")
    assert fetch(f"{server.url}/weights.pth", cache=tmp_path).read_bytes() == b"\x80\x02older"
    assert fetch(f"{server.url}/weights.pth", sha256=SHA256, cache=tmp_path).read_bytes() == CONTENT


def test_what_goes_wrong_is_said_and_leaves_no_file(server, tmp_path):
    with pytest.raises(DownloadError, match=rf"cannot download {server.url}/absent.pth: HTTP status 404"):
        fetch(f"{server.url}/absent.pth", cache=tmp_path)
    with pytest.raises(DownloadError, match=rf"{server.url}/short.pth: .*5000"):
        fetch(f"{server.url}/short.pth", cache=tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/w.pth"
        with pytest.raises(DownloadError, match=rf"cannot download {closed}: no connection"):
            fetch(closed, cache=tmp_path)
    with pytest.raises(DownloadError, match=r"cannot download http://127.0.0.1/a b"):
        fetch("http://127.0.0.1/a b", cache=tmp_path)
    with pytest.raises(ValueError, match="not an http"):
        fetch("ftp://127.0.0.1/w.pth", cache=tmp_path)
    assert files(tmp_path) == []


def test_an_interrupted_download_leaves_no_file(server, tmp_path, monkeypatch):
    def interrupt(progress, size):
        raise KeyboardInterrupt

    monkeypatch.setattr("detkit.download.progress.DownloadProgress.update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/weights.pth", cache=tmp_path)
    assert files(tmp_path) == []


def test_a_terminal_shows_size_and_time_left(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: type("Size", (), {"columns": 100}))
    fetch(f"{server.url}/weights.pth", cache=tmp_path)
    shown = capsys.readouterr().err
    assert "\r" in shown and "of 0.8 MB, 0:00 left" in shown


def test_local_files(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    assert local_file(path) == local_file(str(path), sha256=SHA256) == path
    with pytest.raises(DownloadError, match=r"weights.pth has the SHA-256 checksum"):
        local_file(path, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"no such file: nothing.pth"):
        local_file("nothing.pth")


def torch_file(value, **options):
    buffer = io.BytesIO()
    torch.save({"w": torch.full((2000,), float(value))}, buffer, **options)
    return buffer.getvalue()


def reply(content, *headers, status=b"200 OK"):
    """A whole reply of a server that closes the connection at the end, with these headers alone."""
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", content])


class RawHandler(Handler):
    def do_GET(self):
        self.wfile.write(self.server.pages[self.path])


@pytest.fixture
def raw_server(server, monkeypatch):
    """A server whose replies are the bytes in `pages`, status line included."""
    server.RequestHandlerClass = RawHandler
    return server


HTML = b"\n<!DOCTYPE html><html><body>Sign in to download</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (reply(HTML), "is an HTML page, not weights: take the link of the file itself"),
        (reply(torch_file(1), b"Content-Type: text/html; charset=utf-8"), "is an HTML page"),
        (reply(LFS), "is a git-lfs pointer, not the weights themselves: `git lfs pull` fetches"),
        (reply(b'{"error": "not found"}'), "is text, not weights"),
        (reply(b""), "is empty"),
        (reply(torch_file(1)[:-300]), "is truncated or damaged"),
        (reply(torch_file(1).replace(b"\x80\x3f", b"\x81\x3f", 1)), "is damaged: its entry"),
        (reply(save({"w": torch.ones(2000)})[:-1]), "is truncated or damaged: it has 8071 bytes, by its header 8072"),
        (reply(torch_file(1)[:-300], b"Content-Length: " + str(len(torch_file(1))).encode()), "it ended after"),
        (reply(b"100\r\n" + torch_file(1)[:100], CHUNKED), "IncompleteRead"),
        (
            reply(torch_file(1), b"Content-Length: 99999999999999"),
            "more than 10000.0 MB; DETKIT_MAX_DOWNLOAD_GB allows",
        ),
        (reply(torch_file(1), b"Content-Length: " + b"9" * 5000), "the server sent the Content-Length '99"),
        (reply(torch_file(1, _use_new_zipfile_serialization=False)[:-9]), "give its checksum, as URL#sha256=HEX"),
    ],
)
def test_what_is_no_complete_file_of_weights_is_refused(raw_server, tmp_path, page, message):
    raw_server.pages["/m.pth"] = page
    with pytest.raises(DownloadError) as error:
        fetch(f"{raw_server.url}/m.pth", cache=tmp_path)
    assert message in str(error.value) and f"{raw_server.url}/m.pth" in str(error.value)
    assert "\n" not in str(error.value) and files(tmp_path) == []


def test_an_endless_file_ends_at_the_limit(raw_server, tmp_path, monkeypatch):
    raw_server.pages["/m.pth"] = reply(CONTENT)
    monkeypatch.setenv("DETKIT_MAX_DOWNLOAD_GB", "0.0001")
    with pytest.raises(DownloadError, match=r"it is larger than 0.1 MB; DETKIT_MAX_DOWNLOAD_GB allows more"):
        fetch(f"{raw_server.url}/m.pth", cache=tmp_path)
    monkeypatch.setenv("DETKIT_MAX_DOWNLOAD_GB", "much")
    with pytest.raises(ValueError, match=r"DETKIT_MAX_DOWNLOAD_GB must be a positive number of gigabytes, got 'much'"):
        fetch(f"{raw_server.url}/m.pth", cache=tmp_path)


def test_backbones_of_two_urls_with_one_base_name_differ(raw_server, tmp_path, monkeypatch):
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path))
    for i, folder in enumerate("ab"):
        raw_server.pages[f"/{folder}/m.pth"] = reply(torch_file(i))
    found = [read_state_dict(f"{raw_server.url}/{folder}/m.pth")["w"][0].item() for folder in "aba"]
    assert found == [0, 1, 0] and len(files(tmp_path)) == 2
    address = f"{raw_server.url}/a/m.pth#sha256="
    assert read_state_dict(address + hashlib.sha256(torch_file(0)).hexdigest())["w"][0] == 0
    with pytest.raises(ValueError, match=r"a/m.pth has the SHA-256 checksum"):
        read_state_dict(address + "0" * 64)


def test_a_damaged_file_in_the_cache_is_downloaded_again(raw_server, tmp_path):
    url = f"{raw_server.url}/m.pth"
    raw_server.pages["/m.pth"] = reply(torch_file(1))
    for content in (torch_file(1)[:1000], HTML, b""):
        (tmp_path / cached_name(url)).write_bytes(content)
        assert fetch(url, cache=tmp_path).read_bytes() == torch_file(1)


def test_leftovers_of_dead_processes_leave_the_cache(raw_server, tmp_path):
    raw_server.pages["/m.pth"] = reply(torch_file(1))
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    for name in (f".m.pth.{dead}.tmp", f".m.pth.{os.getppid()}.tmp", ".m.pth.7@elsewhere.tmp", ".notes.tmp"):
        (tmp_path / name).touch()
    fetch(f"{raw_server.url}/m.pth", cache=tmp_path)
    assert set(files(tmp_path)) == {
        cached_name(f"{raw_server.url}/m.pth"),
        f".m.pth.{os.getppid()}.tmp",
        ".m.pth.7@elsewhere.tmp",
        ".notes.tmp",
    }


def test_a_compressed_transfer_is_no_file_of_weights(server, tmp_path):
    body = gzip.compress(CONTENT)
    head = f"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    server.pages["/w.pth"] = head.encode() + body
    with pytest.raises(DownloadError, match=r"/w.pth: what came is compressed: unpack it first"):
        fetch(f"{server.url}/w.pth", cache=tmp_path)
    assert files(tmp_path) == []


def test_a_circle_of_redirections_is_one_line(server, tmp_path):
    server.pages["/w.pth"] = b"HTTP/1.0 302 Found\r\nLocation: /w.pth\r\n\r\n"
    with pytest.raises(DownloadError) as failure:
        fetch(f"{server.url}/w.pth", cache=tmp_path)
    assert "HTTP status 302" in str(failure.value) and len(str(failure.value).splitlines()) == 1


def test_the_checksum_of_the_first_download_counts_ever_after(raw_server, tmp_path):
    url, path = f"{raw_server.url}/m.pth", tmp_path / cached_name(f"{raw_server.url}/m.pth")
    raw_server.pages["/m.pth"] = reply(torch_file(1))
    fetch(url, cache=tmp_path)
    first = hashlib.sha256(torch_file(1)).hexdigest()
    record = path.with_name(path.name + ".sha256")
    assert record.read_text() == f"{first}  {path.name}\n"
    path.write_bytes(torch_file(2))  # altered, but a whole file of weights
    assert fetch(url, cache=tmp_path).read_bytes() == torch_file(1)
    raw_server.pages["/m.pth"] = reply(torch_file(3))
    path.unlink()
    with pytest.raises(
        DownloadError, match=rf"is another file than at its first download, .*{first}; .*remove .*sha256"
    ):
        fetch(url, cache=tmp_path)
    record.unlink()
    assert fetch(url, cache=tmp_path).read_bytes() == torch_file(3)


def test_a_file_that_is_put_into_the_cache_by_hand_is_taken_and_recorded(tmp_path):
    url = "http://127.0.0.1:1/m.pth"
    with pytest.raises(DownloadError, match=f"without network put the file at {tmp_path / cached_name(url)}$"):
        fetch(url, cache=tmp_path)
    (tmp_path / cached_name(url)).write_bytes(torch_file(1))
    assert fetch(url, cache=tmp_path).read_bytes() == torch_file(1)
    assert (tmp_path / f"{cached_name(url)}.sha256").read_text().startswith(hashlib.sha256(torch_file(1)).hexdigest())
