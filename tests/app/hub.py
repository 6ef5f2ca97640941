"""A Hub of one repository, on this machine: a folder served as the library asks for it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(repository: str, folder: Path) -> Iterator[str]:
    """Serve a folder as a repository; gives the address for `HF_ENDPOINT`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:  # the library's name
            self._answer(with_body=False)

        def do_GET(self) -> None:  # the library's name
            self._answer(with_body=True)

        def log_message(self, format: str, *args: object) -> None:  # its name
            pass

        def _answer(self, *, with_body: bool) -> None:
            _, _, name = self.path.partition(f"/{repository}/resolve/")
            file = folder / name.partition("/")[2]
            if self.path.startswith(f"/api/models/{repository}"):
                names = [{"rfilename": each.name} for each in folder.iterdir()]
                content = {"id": repository, "sha": COMMIT, "siblings": names, "tags": []}
                self._send(200, json.dumps(content).encode(), with_body)
            elif name and file.is_file():
                self._send(200, file.read_bytes(), with_body)
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def _send(self, status: int, body: bytes, with_body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                with suppress(ConnectionError):  # a client whose disk is full hangs up
                    self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
