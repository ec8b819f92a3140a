"""A gate before a server for tests: counts requests, and may act, or hang up, before or after one is passed on."""

from __future__ import annotations

import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import httpx

Moment = Literal["before", "after"]


class Gate:
    """What stands before the server at ``target``; ``url`` is the gate's own address, ``count`` what came so far."""

    def __init__(self, target: str, act: Callable[[int, str, Moment], bool]) -> None:
        self.target = httpx.URL(target)
        self.act = act
        self.count = 0
        self.url = ""


class _Handler(socketserver.StreamRequestHandler):
    """Hands on one request a connection."""

    def handle(self) -> None:
        with suppress(OSError):
            self._pass_on()

    def _pass_on(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return
            head += line
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = self.rfile.read(int(length[1])) if length else b""
        head = re.sub(rb"(?i)connection: [^\r]*", b"Connection: close", head)
        server: Any = self.server
        gate: Gate = server.gate
        gate.count += 1
        number, request = gate.count, head.split(b"\r\n")[0].decode()
        if gate.act(number, request, "before"):
            return
        with socket.create_connection((gate.target.host, gate.target.port), timeout=300) as upstream:
            upstream.sendall(head + body)
            answer = b"".join(iter(lambda: upstream.recv(65536), b""))
        if not gate.act(number, request, "after"):
            # The gate hangs up after each request, and says so: else a client may send its next one into the closing.
            self.wfile.write(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))


@contextmanager
def gate(target: str, act: Callable[[int, str, Moment], bool]) -> Iterator[Gate]:
    """Open a gate before ``target``; ``act(number, request line, moment)`` is true where it is to hang up."""
    made = Gate(target, act)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        opened: Any = server
        opened.daemon_threads, opened.gate = True, made
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield made
        server.shutdown()
