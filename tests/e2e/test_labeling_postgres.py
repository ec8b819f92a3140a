"""A team's Label Studio in PostgreSQL; by itself, because making its tables takes a minute or two."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from labeling.client import LabelStudioAnnotator
from labeling.person import LabelStudioPerson
from labeling.server import DATABASE, LabelStudioServer, add_person, person_token
from tests.contracts.test_annotators import CLASSES, draw, entry
from tests.tests_postgres import Postgres

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_answers_go_through_a_label_studio_in_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = LabelStudioServer(tmp_path / "label-studio")
    batch = [entry(uuid.uuid4().hex, mode, n) for n, mode in enumerate(("shown", "blind", "control"))]
    with Postgres() as postgres:
        postgres._call("createdb", "-h127.0.0.1", f"-p{postgres.port}", "-Ucuration", "labels")
        address = f"postgresql://curation@127.0.0.1:{postgres.port}/labels"
        monkeypatch.setenv("CURATION_LABEL_STUDIO_DATABASE", address)
        try:
            connection = server.start(timeout=420)
            add_person(connection, "ann@example.com", "a long enough one")
            token = person_token(connection, "ann@example.com", "a long enough one")
            asked = LabelStudioAnnotator(
                connection, project_name="Team", project_id=uuid.uuid4().hex, classes=CLASSES, person_names={}
            )
            asked.send(batch, draw(tmp_path / "images", batch))
            assert LabelStudioPerson(connection.url, token).answer(asked.project_id, lambda key: "c1") == 3
            assert [v.answer for v in asked.collect(batch)] == ["c1"] * 3
        finally:
            server.stop()
    assert not (server.home / "server" / DATABASE).exists()
