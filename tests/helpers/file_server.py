"""A web server on this machine, with files that a test gives it."""

import contextlib
import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


def file_server(monkeypatch):
    """A running server: `url`, `files` by their paths (bytes; a test adds them), and the paths `requested`."""
    return serving(monkeypatch, Handler, files={})


@contextlib.contextmanager
def serving(monkeypatch, handler, **state):
    """A running server with a `url`; its attributes are `state` and `requested`, an empty list for the handler."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        vars(server).update(state, requested=[])
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
