"""The App's address and warnings; that it starts is in tests/e2e."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from curation.errors import ServiceError
from reports.app import ReviewApp, view_slug


def test_address_of_a_view_keeps_the_panel_beside_it(tmp_path: Path) -> None:
    app = ReviewApp(tmp_path, "cells-1", port=5999)
    assert app.url() == "http://127.0.0.1:5999/datasets/cells-1?workspace=curation"
    assert app.url("issues_it02") == "http://127.0.0.1:5999/datasets/cells-1?workspace=curation&view=issues-it02"


@pytest.mark.parametrize(("address", "warned"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_address_that_others_can_reach_is_warned_of(tmp_path: Path, address: str, warned: bool) -> None:
    assert bool(ReviewApp(tmp_path, "d", address=address).warning) is warned


def test_app_gets_a_port_of_its_own(tmp_path: Path) -> None:
    assert ReviewApp(tmp_path, "d").port > 1024


def test_slug_follows_fiftyones_rule() -> None:
    assert view_slug("slice_it01_1: a (b) < 0.3 & 'c'") == "slice-it01-1-a-b-0-3-c"


def test_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"can't listen on 127.0.0.1, port {port} .*choose another"):
            ReviewApp(tmp_path / "home", "d", port=port).start()
    assert not (tmp_path / "home").exists()


def test_app_that_ends_at_once_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no module named app' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:1")
    with pytest.raises(ServiceError, match="ended at once: ImportError: no module named app"):
        ReviewApp(tmp_path, "d").start()
