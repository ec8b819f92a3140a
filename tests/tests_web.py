"""A web server of the tests' own that serves a folder, as a storage of images would; it may answer otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


class Web:
    """What is served: ``allowed`` are the pages that may show it, ``content`` what comes instead of the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.status = 200
        self.allowed: str | None = "*"
        self.content: bytes | None = None
        self.origins: list[str | None] = []
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    """Answers GET with the file of that path, HEAD with nothing, as a bucket does that is there."""

    def do_GET(self) -> None:
        server: Any = self.server
        web: Web = server.web
        web.origins.append(self.headers.get("Origin"))
        path = unquote(urlsplit(self.path).path).lstrip("/")
        web.asked.append(path)
        file = web.folder / path
        status = web.status if file.is_file() else 404
        content = web.content or (file.read_bytes() if status == 200 else b"")
        self.send_response(status)
        if web.allowed:
            self.send_header("Access-Control-Allow-Origin", web.allowed)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    """Serve a folder at a free port."""
    web = Web(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        opened: Any = server
        opened.web = web
        web.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield web
        server.shutdown()
