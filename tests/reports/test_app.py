"""The App's address and warnings; that it starts is in tests/e2e."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from curation.cli import curate
from curation.errors import ServiceError
from curation.processes import birth
from reports.app import ReviewApp, running_apps, stop_orphans
from reports.app_server import _SEEN, guarded, refusal


def test_address_of_a_view_keeps_the_panel_beside_it(tmp_path: Path) -> None:
    app = ReviewApp(tmp_path, "cells-1", port=5999)
    assert app.url() == "http://127.0.0.1:5999/datasets/cells-1?workspace=curation"
    assert app.url("issues_it02") == "http://127.0.0.1:5999/datasets/cells-1?workspace=curation&view=issues-it02"


@pytest.mark.parametrize(("address", "warned"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_address_that_others_can_reach_is_warned_of(tmp_path: Path, address: str, warned: bool) -> None:
    assert bool(ReviewApp(tmp_path, "d", address=address).warning) is warned


def test_app_gets_a_port_of_its_own(tmp_path: Path) -> None:
    assert ReviewApp(tmp_path, "d").port > 1024


def test_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"can't listen on 127.0.0.1, port {port} .*choose another"):
            ReviewApp(tmp_path / "home", "d", port=port).start()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("port", [-5, 99_999])
def test_what_is_no_port_is_told(tmp_path: Path, port: int) -> None:
    with pytest.raises(ServiceError, match=rf"can't listen on 127.0.0.1, port {port} .*choose another"):
        ReviewApp(tmp_path / "home", "d", port=port).begin()
    for options in (["--port", str(port)], ["--port", "65535", "--for", "Ann", "--for", "Bob"]):
        done = CliRunner().invoke(curate, ["review", str(tmp_path), *options])
        assert (done.exit_code, "Usage" in done.output) == (2, True), done.output


def test_what_is_done_meanwhile_is_done_once_and_its_fault_stops_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = tmp_path / "python"
    patient.write_text("#!/bin/sh\nexec sleep 60\n")
    patient.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(patient))
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:1")
    seen = list[int]()
    app = ReviewApp(tmp_path, "d", meanwhile=lambda: seen.extend(r.pid for r in running_apps(tmp_path)))
    try:
        app.begin()
        app.begin()
        assert seen == [r.pid for r in running_apps(tmp_path)], "the App is under way while the work is done"
    finally:
        app.stop()

    def fail() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        ReviewApp(tmp_path, "d", meanwhile=fail).begin()
    assert running_apps(tmp_path) == []


def test_app_that_ends_at_once_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no module named app' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:1")
    with pytest.raises(ServiceError, match="ended at once: ImportError: no module named app"):
        ReviewApp(tmp_path, "d").start()


SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def write_down(home: Path, port: int, pid: int, owner: int, owner_created: float) -> Path:
    file = home / f"app-{port}.json"
    told = {"pid": pid, "created": birth(pid), "owner": owner, "owner_created": owner_created, "port": port}
    file.write_text(json.dumps(told | {"address": "127.0.0.1", "reviewer": "Ann"}))
    return file


def test_server_whose_owner_was_killed_is_stopped_and_one_with_an_owner_is_not(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as orphan, subprocess.Popen(SLEEP) as other:
        try:
            gone = write_down(tmp_path, 1, orphan.pid, os.getpid(), 12.5)  # born at another time: somebody else
            kept = write_down(tmp_path, 2, other.pid, os.getpid(), birth(os.getpid()) or 0)
            assert [running.port for running in stop_orphans(tmp_path)] == [1]
            assert birth(orphan.pid) is None
            assert [running.reviewer for running in running_apps(tmp_path)] == ["Ann"]
            assert (gone.exists(), kept.exists(), other.poll()) == (False, True, None)
        finally:
            for process in (orphan, other):
                process.kill()


def test_what_is_written_down_of_a_dead_server_is_forgotten(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as over:
        file = write_down(tmp_path, 1, over.pid, os.getpid(), 0.0)
    assert running_apps(tmp_path) == []
    assert not file.exists()


SERVER = """
import os, subprocess, sys, time
code = "import sys, time; from reports.app_server import end_with; end_with(int(sys.argv[1])); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_the_app_of_the_project_that_a_folder_was_copied_from_is_not_the_copys(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    with subprocess.Popen(SLEEP) as orphan:
        try:
            for home in (original, copy):
                home.mkdir()
                notes = write_down(home, 1, orphan.pid, os.getpid(), 12.5)
                notes.write_text(json.dumps(json.loads(notes.read_text()) | {"home": str(original)}))
            assert stop_orphans(copy) == []
            assert running_apps(copy) == []
            assert [running.pid for running in running_apps(original)] == [orphan.pid]
        finally:
            orphan.kill()


def test_server_ends_with_whoever_started_it_even_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        server = int(owner.stdout.readline())
        time.sleep(0.5)
        assert birth(server) is not None
        owner.kill()
    give_up = time.monotonic() + 20
    while birth(server) is not None and time.monotonic() < give_up:
        time.sleep(0.1)
    assert birth(server) is None


@pytest.mark.parametrize(
    ("host", "origin", "address", "known", "refused"),
    [
        ("127.0.0.1:5151", "", "127.0.0.1", (), False),
        ("localhost:9000", "http://localhost:9000", "127.0.0.1", (), False),  # through an SSH tunnel
        ("[::1]:5151", "http://[::1]:5151", "::1", (), False),
        ("127.0.0.1:5151", "http://127.0.0.1:8080", "127.0.0.1", (), True),  # another server's page on this machine
        ("127.0.0.1:5151", "null", "127.0.0.1", (), True),
        ("rebound.example:5151", "http://rebound.example:5151", "127.0.0.1", (), True),
        ("review.team", "https://review.team", "127.0.0.1", ("review.team",), False),
        ("127.0.0.1:5151", "https://review.team", "127.0.0.1", ("review.team",), False),
        ("10.0.0.7:5151", "http://10.0.0.7:5151", "0.0.0.0", (), False),
        ("10.0.0.7:5151", "http://evil.example", "0.0.0.0", (), True),
    ],
)
def test_pages_of_other_sites_can_not_use_the_app(
    host: str, origin: str, address: str, known: tuple[str, ...], refused: bool
) -> None:
    assert bool(refusal(host, origin, address, known)) is refused


@pytest.mark.parametrize(
    ("site", "use", "refused"),
    [
        ("same-origin", "image", False),  # the App's own page
        ("none", "document", False),  # typed in, or from a bookmark
        ("cross-site", "document", False),  # a link in a mail or a report
        ("cross-site", "image", True),  # which would tell a foreign page whether a file is there, and how large
        ("cross-site", "iframe", True),
        ("same-site", "image", True),  # another port of this machine
        ("same-site", "script", True),
        ("", "", False),  # no browser
    ],
)
def test_no_other_site_shows_what_the_app_serves(site: str, use: str, refused: bool) -> None:
    assert bool(refusal("127.0.0.1:5151", "", "127.0.0.1", site=site, use=use)) is refused
    passed: list[bool] = []

    async def app(*_: Any) -> None:
        passed.append(True)

    async def send(_: Mapping[str, Any]) -> None:
        pass

    told = [(b"host", b"127.0.0.1:5151"), (b"sec-fetch-site", site.encode()), (b"sec-fetch-dest", use.encode())]
    receive: Any = None
    asyncio.run(guarded(app, "127.0.0.1", ())({"type": "http", "headers": told}, receive, send))
    assert bool(passed) is not refused


def test_guard_answers_403_and_lets_the_rest_through() -> None:
    passed: list[str] = []
    sent: list[Mapping[str, Any]] = []

    async def app(scope: Mapping[str, Any], _receive: Any, _send: Any) -> None:
        passed.append(scope["type"])

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    def ask(kind: str, origin: bytes) -> None:
        headers = [(b"Host", b"127.0.0.1:1"), (b"origin", origin)]
        receive: Any = None
        asyncio.run(guarded(app, "127.0.0.1", ())({"type": kind, "headers": headers}, receive, send))  # type: ignore[arg-type]

    ask("http", b"http://evil.example")
    ask("websocket", b"http://evil.example")
    ask("http", b"http://127.0.0.1:1")
    assert passed == ["http"]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body", "websocket.close"]
    assert sent[0]["status"] == 403


def test_pages_count_the_advertisement_as_seen_and_their_length_is_right() -> None:
    page, picture = b"<!DOCTYPE html>\n<html><head><title>App</title></head></html>", b"<head> of a picture"
    sent: list[Mapping[str, Any]] = []

    def serving(body: bytes, kind: bytes) -> Any:
        async def app(_scope: Mapping[str, Any], _receive: Any, send: Any) -> None:
            headers = [(b"content-type", kind), (b"Content-Length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body[:40], "more_body": True})
            await send({"type": "http.response.body", "body": body[40:]})

        return app

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    for body, kind in ((page, b"text/html; charset=utf-8"), (picture, b"image/png")):
        scope = {"type": "http", "headers": [(b"host", b"127.0.0.1:1")]}
        receive: Any = None
        asyncio.run(guarded(serving(body, kind), "127.0.0.1", ())(scope, receive, send))
    first, second = sent[:3], sent[3:]
    whole = b"".join(message["body"] for message in first[1:])
    assert whole.replace(_SEEN, b"") == page
    assert whole.index(_SEEN) < whole.index(b"<title>")
    assert dict(first[0]["headers"])[b"Content-Length"] == b"%d" % len(whole)
    assert b"".join(message["body"] for message in second[1:]) == picture
    assert dict(second[0]["headers"])[b"Content-Length"] == b"%d" % len(picture)
