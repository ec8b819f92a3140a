"""Real services for the tests of this folder: one Label Studio a session, and a browser."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from labeling.server import Connection, LabelStudioServer, add_person, person_token
from tests.tests_web import Web, web_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = Path(os.environ.get("CURATION_CHROMIUM", "/usr/bin/chromium"))
#: Of every account that the tests make.
PASSWORD = "a long enough one"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """What stands in for S3, a bucket a folder; Label Studio refuses private addresses but from its operator."""
    with web_server(tmp_path_factory.mktemp("buckets")) as web, pytest.MonkeyPatch.context() as environment:
        environment.setenv("S3_ENDPOINT", web.url)
        yield web


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory, buckets: Web) -> Iterator[LabelStudioServer]:
    """A running Label Studio with files of its own; about 40 s to start."""
    server = LabelStudioServer(tmp_path_factory.mktemp("label-studio"))
    server.start(timeout=420)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def connection(label_studio: LabelStudioServer) -> Connection:
    return label_studio.start()


@pytest.fixture(scope="session")
def tokens(connection: Connection) -> dict[str, str]:
    """Two labelers, by name."""
    found = {}
    for person in ("ann", "bob"):
        add_person(connection, f"{person}@example.com", PASSWORD)
        found[person] = person_token(connection, f"{person}@example.com", PASSWORD)
    return found


@pytest.fixture
def project_id() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots go, for people to look at."""
    root = Path(__file__).resolve().parent.parent.parent
    folder = Path(os.environ.get("CURATION_ARTIFACTS", root / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    if not CHROMIUM.is_file():
        pytest.fail(f"{CHROMIUM} is missing: install Chromium (apt-get install chromium) or set CURATION_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()
