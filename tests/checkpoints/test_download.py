import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest

from detkit.checkpoints.download import DownloadError, cache_folder, cached_name, fetch, local_file

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        if self.path == "/moved.pth":
            self.send_response(302)
            self.send_header("Location", "/weights.pth")
            self.end_headers()
        elif self.path.startswith(("/weights.pth", "/unknown_length", "/short.pth")):
            self.send_response(200)
            if not self.path.startswith("/unknown_length"):
                self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:5000] if self.path == "/short.pth" else CONTENT)
        else:
            self.send_error(404)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requested = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", ["/weights.pth", "/moved.pth", "/unknown_length"])
def test_a_file_is_downloaded_once(server, tmp_path, capsys, path):
    found = fetch(server.url + path, sha256=SHA256.upper(), cache=tmp_path / "new" / "cache")
    assert found.read_bytes() == CONTENT and files(tmp_path) == [found.name]
    shown = capsys.readouterr().err
    assert f"downloading {server.url}{path}" in shown and "0.8 MB in 0:00" in shown
    before = len(server.requested)
    assert fetch(server.url + path, sha256=SHA256, cache=tmp_path / "new" / "cache") == found
    assert len(server.requested) == before and capsys.readouterr().err == ""


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
    path.write_bytes(b"older")
    assert fetch(f"{server.url}/weights.pth", cache=tmp_path).read_bytes() == b"older"
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

    monkeypatch.setattr("detkit.checkpoints.download.DownloadProgress.update", interrupt)
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
