"""FiftyOne's App server as a process of its own, behind a guard; it ends when whoever started it is gone.

``python -m reports.app_server --port 5151 --address 127.0.0.1 --owner PID``, in the environment of
``reports.fiftyone_store.environment``. The App asks nobody who they are, and a page of any web site can send requests
to a server on the same machine; so requests that a foreign page makes, or that come under a foreign host name, are
refused: the App hands out any file that this user can read. Names under which a proxy serves the App stand in
``CURATION_APP_HOSTS``, separated by commas.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

HOSTS_VARIABLE = "CURATION_APP_HOSTS"
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_LOOK_SECONDS = 1.0
_SEEN = b"<script>localStorage.setItem('fiftyone-enterprise-tooltip-seen', 'true')</script>"

Scope = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Callable[[], Awaitable[Any]], Send], Awaitable[None]]


def refusal(host: str, origin: str, address: str, known: Collection[str] = (), *, site: str = "", use: str = "") -> str:
    """Why a request with these headers is refused; '' where it is not (pure).

    ``address`` is where the server listens. Only this machine's names and the ``known`` ones are served on a loopback
    address; on another, any name by which the server was reached. ``site`` and ``use`` are what browsers tell in
    ``Sec-Fetch-Site`` and ``Sec-Fetch-Dest``: from elsewhere a link may lead here, but no page may show our pictures.

    >>> refusal("localhost:5151", "http://localhost:5151", "127.0.0.1")
    ''
    >>> refusal("127.0.0.1:5151", "https://evil.example", "127.0.0.1")
    'a page of evil.example may not use this App'
    >>> refusal("evil.example:5151", "", "127.0.0.1")
    'this App is not called evil.example'
    >>> refusal("127.0.0.1:5151", "", "127.0.0.1", site="cross-site", use="image")
    'a page of another site may not use this App'
    >>> refusal("127.0.0.1:5151", "", "127.0.0.1", site="cross-site", use="document")
    ''
    """
    name = urllib.parse.urlsplit(f"//{host}").hostname or ""
    allowed = _LOCAL | set(known) | {address}
    if address in _LOCAL and name not in allowed:
        return f"this App is not called {name}"
    if site in ("cross-site", "same-site") and use != "document":
        return "a page of another site may not use this App"
    if not origin:
        return ""
    page = urllib.parse.urlsplit(origin)
    same = page.netloc == host or (page.hostname or "") in known
    return "" if same else f"a page of {page.hostname or origin} may not use this App"


def guarded(app: Asgi, address: str, known: Collection[str]) -> Asgi:
    """The application, with refused requests answered by 403 and a sentence, and its page without advertisement."""

    async def guard(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            site, use = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-dest", "")
            why = refusal(headers.get("host", ""), headers.get("origin", ""), address, known, site=site, use=use)
            if why:
                await _refuse(scope["type"], why, send)
                return
        await app(scope, receive, _quiet(send) if scope["type"] == "http" else send)

    return guard


def _quiet(send: Send) -> Send:
    """Sends pages so that FiftyOne's advertisement, which covers the Curation panel, counts as seen already."""
    held: list[dict[str, Any]] = []

    async def sending(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            if kinds and kinds[0].startswith(b"text/html"):
                held.append(dict(message))  # its length is known with the first part of the page
                return
        elif held:
            start, body = held.pop(), message.get("body", b"")
            found = body.replace(b"<head>", b"<head>" + _SEEN, 1)
            start["headers"] = [
                (name, b"%d" % (int(value) + len(found) - len(body)))
                if name.lower() == b"content-length"
                else (name, value)
                for name, value in start["headers"]
            ]
            await send(start)
            message = {**message, "body": found}
        await send(message)

    return sending


async def _refuse(kind: str, why: str, send: Any) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    words = f"{why}; where a proxy serves it, name that host in {HOSTS_VARIABLE}\n".encode()
    kind_of = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": kind_of})
    await send({"type": "http.response.body", "body": words})


def end_with(owner: int) -> None:
    """End this process soon after the process ``owner``, which started it, is gone; whatever ended that one."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)

    threading.Thread(target=watch, name="owner", daemon=True).start()


def load_ahead() -> None:
    """Load what the first page asks for while the browser still reads scripts: a second in which nobody is answered."""

    def load() -> None:
        import fiftyone.operators

        fiftyone.operators.list_operators()  # imports every panel, ours among them, and is remembered

    threading.Thread(target=load, name="load ahead", daemon=True).start()


def keep_custom_metrics() -> None:
    """Let evaluations be read with the figures of classes stored with them, which FiftyOne 1.22 leaves out."""
    from fiftyone.utils.eval.base import BaseClassificationResults

    read = BaseClassificationResults._from_dict.__func__

    def read_all(cls: Any, stored: Mapping[str, Any], *rest: Any, **options: Any) -> Any:
        results = read(cls, stored, *rest, **options)
        results.custom_metrics = stored.get("custom_metrics")
        return results

    BaseClassificationResults._from_dict = classmethod(read_all)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; the options are ours alone and may change."""
    parser = argparse.ArgumentParser(prog="python -m reports.app_server")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--owner", type=int, required=True)
    options = parser.parse_args(arguments)
    end_with(options.owner)
    os.environ["FIFTYONE_SERVER"] = "1"
    import asyncio

    from fiftyone.server.app import app
    from fiftyone.server.events import set_port
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    set_port(options.port)
    config = Config()
    host = f"[{options.address}]" if ":" in options.address else options.address
    config.bind = [f"{host}:{options.port}"]
    known = {name.strip() for name in os.environ.get(HOSTS_VARIABLE, "").split(",") if name.strip()}
    served: Any = guarded(app, options.address, known)
    keep_custom_metrics()
    load_ahead()
    asyncio.run(serve(served, config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
