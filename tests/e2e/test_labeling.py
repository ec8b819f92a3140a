"""People in a real Label Studio, through its interfaces and through connections that break."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from curation.cli import curate
from curation.errors import DataError, LabelStudioError
from curation.project import Project
from curation.records import AMBIGUOUS, BAD_IMAGE, WITHDRAWN, Classes, QueueEntry, Verdict
from labeling.client import LabelStudioAnnotator
from labeling.person import LabelStudioPerson
from labeling.server import (
    DATABASE,
    Connection,
    LabelStudioServer,
    add_person,
    connection_from_environment,
    person_token,
)
from labeling.storages import image_address
from labeling.tasks import choice_result
from labeling.web import plain_client, post_form, sign_in, token_client
from tests.contracts.test_annotators import AnnotatorPromises, Asking, draw
from tests.e2e.conftest import PASSWORD
from tests.tests_gate import Moment, gate
from tests.tests_labeling import annotator, batch_of, ledger_of, tasks
from tests.tests_web import Web

pytestmark = pytest.mark.e2e


class LabelStudioAsking:
    """People who answer in Label Studio."""

    def __init__(self, connection: Connection, tokens: dict[str, str]) -> None:
        self.connection, self.tokens = connection, tokens
        self.project_id = uuid.uuid4().hex
        self.given: dict[tuple[str, str], int] = {}
        self.task_of: dict[str, int] = {}

    def annotator(self) -> LabelStudioAnnotator:
        return annotator(self.connection, self.project_id)

    def answer(self, entry: QueueEntry, person: str, answer: str, seconds: float) -> None:
        said = {"result": choice_result(answer), "lead_time": seconds}
        if entry.key not in self.task_of:
            every = [t for stream in tasks(self.connection, self.project_id).values() for t in stream]
            self.task_of = {t["data"]["key"]: t["id"] for t in every}
            assert len(self.task_of) == len(every)
        with token_client(self.connection.url, self.tokens[person]) as client:
            if (entry.key, person) in self.given:
                client.patch(f"/api/annotations/{self.given[entry.key, person]}/", json=said).raise_for_status()
            else:
                made = (
                    client.post(f"/api/tasks/{self.task_of[entry.key]}/annotations/", json=said)
                    .raise_for_status()
                    .json()
                )
                self.given[entry.key, person] = made["id"]


class TestLabelStudio(AnnotatorPromises):
    """The same promises that answers from a file keep."""

    @pytest.fixture
    def asking(self, connection: Connection, tokens: dict[str, str]) -> Asking:
        return LabelStudioAsking(connection, tokens)


def test_blind_tasks_tell_nothing_and_controls_hide_among_them(
    connection: Connection, project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(12)
    files = draw(tmp_path, batch)
    annotator(connection, project_id).send(batch, files)
    sent = tasks(connection, project_id)
    assert {frozenset(t["data"]) for t in sent["blind"]} == {frozenset({"key", "image"})}
    assert [t["data"]["key"] for t in sent["blind"]] == sorted(e.key for e in batch if e.mode != "shown")
    assert [t["data"]["key"] for t in sent["shown"]] == [e.key for e in batch if e.mode == "shown"]
    assert sent["shown"][0]["data"]["given_label"] == "cat & dog"
    told = json.dumps(sent["blind"])
    assert not [word for e in batch for word in (e.sample_id, str(files[e.sample_id])) if word in told]


def test_images_are_served_to_who_signed_in_and_nothing_else_is(
    connection: Connection, tokens: dict[str, str], project_id: str, label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    batch = batch_of(3)
    files = draw(tmp_path, batch)
    annotator(connection, project_id).send(batch, files)
    addresses = [t["data"]["image"] for stream in tasks(connection, project_id).values() for t in stream]
    with plain_client(connection.url) as stranger:
        assert {stranger.get(address).status_code for address in addresses} == {401}
    with token_client(connection.url, tokens["ann"]) as client:
        served = {client.get(address).content for address in addresses}
        assert served == {file.read_bytes() for file in files.values()}
        for elsewhere in (
            "../secrets.json",
            "../server/label_studio.sqlite3",
            "/etc/passwd",
            "shown/../../secrets.json",
        ):
            answer = client.get("/data/local-files/", params={"d": elsewhere})
            assert answer.status_code != 200, elsewhere
    images = label_studio.images
    assert not [p for p in images.rglob("*") if p.is_symlink()]


def test_nobody_signs_up_without_an_invitation(connection: Connection) -> None:
    with plain_client(connection.url) as stranger:
        stranger.get("/user/signup/")
        fields = {"email": "eve@example.com", "password": PASSWORD, "allow_newsletters": "false"}
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            post_form(stranger, "/user/signup/", fields)
        assert not sign_in(stranger, "eve@example.com", PASSWORD)


def test_an_account_stays_with_its_password(connection: Connection, tokens: dict[str, str]) -> None:
    add_person(connection, "ann@example.com", PASSWORD)
    with pytest.raises(LabelStudioError, match=r"did not accept an account for ann@example\.com"):
        add_person(connection, "ann@example.com", "another long one")
    with pytest.raises(LabelStudioError, match=r"knows no ann@example\.com with this password"):
        person_token(connection, "ann@example.com", "another long one")


def test_people_answer_both_streams_once_and_in_order(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(30)
    asked = annotator(connection, project_id)
    asked.send(batch, draw(tmp_path, batch))
    assert asked.waiting(batch) == 60
    assert list(asked.addresses()) == ["shown", "blind"]
    seen: list[str] = []

    def choose(key: str) -> str:
        seen.append(key)
        return "c2" if len(seen) % 2 else BAD_IMAGE

    ann = LabelStudioPerson(connection.url, tokens["ann"])
    began = time.monotonic()
    assert ann.answer(project_id, choose, lambda key: 1.5, limit=12) == 12
    assert ann.answer(project_id, choose, lambda key: 1.5) == 18
    speed = 30 / (time.monotonic() - began)
    print(f"{speed:.1f} answers a second")
    served = [t["data"]["key"] for stream in tasks(connection, project_id).values() for t in stream]
    assert sorted(seen) == sorted(served)
    assert seen[:10] == [e.key for e in batch if e.mode == "shown"]
    assert ann.answer(project_id, choose) == 0
    assert asked.waiting(batch) == 30
    assert LabelStudioPerson(connection.url, tokens["bob"]).answer(project_id, lambda key: "c1") == 30
    assert asked.waiting(batch) == 0
    found = asked.collect(batch)
    assert {(v.person, v.seconds) for v in found} == {("ann", 1.5), ("bob", 2.0)}
    assert speed > 2


def test_answers_that_cannot_count_are_told_and_do_no_harm(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(3, ("shown",))
    asked = annotator(connection, project_id)
    asked.send(batch, draw(tmp_path, batch))
    answers = iter(["no such class", "c1", AMBIGUOUS])
    LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: next(answers))
    assert [v.answer for v in asked.collect(batch)] == ["c1", AMBIGUOUS]
    (reason,) = asked.rejected
    assert "no such class" in reason


def test_tasks_of_an_earlier_batch_are_withdrawn_unless_answered(
    connection: Connection, tokens: dict[str, str], project_id: str, label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    first, second = batch_of(6), batch_of(4, ("shown",))
    asked = annotator(connection, project_id)
    asked.send(first, draw(tmp_path / "1", first))
    LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: "c1", limit=1)
    before = {p.name for p in label_studio.images.rglob("*.png")}
    asked.send(second, draw(tmp_path / "2", second))
    left = tasks(connection, project_id)
    assert [t["data"]["key"] for t in left["shown"]] == [first[0].key, *(e.key for e in second)]
    assert left["blind"] == []
    assert len(asked.collect(first)) == 1
    gone = before - {p.name for p in label_studio.images.rglob("*.png")}
    assert len(gone) == 5


def test_an_unanswered_task_keeps_its_place_in_a_new_batch_that_asks_about_its_image(
    connection: Connection, tokens: dict[str, str], project_id: str, label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    first = batch_of(6)
    again = [replace(e, key=uuid.uuid4().hex, iteration=5, reason="still doubtful") for e in first[1:]]
    files = draw(tmp_path, first)
    asked = annotator(connection, project_id, earlier=lambda: [*first, *again])
    asked.send(first, files)
    before = {t["data"]["key"]: t["id"] for stream in tasks(connection, project_id).values() for t in stream}
    asked.send(again, files)
    left = [t for stream in tasks(connection, project_id).values() for t in stream]
    assert {t["id"]: t["data"]["key"] for t in left} == {
        before[old.key]: new.key for old, new in zip(first[1:], again, strict=True)
    }
    assert {t["data"].get("reason") for t in left} == {None, "still doubtful"}
    served = {p.name for p in label_studio.images.rglob("*.png")}
    assert all(t["data"]["image"].split("/")[-1] in served for t in left)
    # Somebody has had a task on the screen all the while, and answers now.
    with token_client(connection.url, tokens["ann"]) as client:
        said = {"result": choice_result("c2"), "lead_time": 2.0}
        client.post(f"/api/tasks/{before[first[3].key]}/annotations/", json=said).raise_for_status()
    assert [(v.key, v.answer, v.iteration) for v in asked.collect([*first, *again])] == [(again[2].key, "c2", 5)]


def test_an_answer_that_comes_while_tasks_are_withdrawn_is_not_deleted_with_its_task(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    first, second = batch_of(4, ("shown",)), batch_of(1, ("shown",))
    files = draw(tmp_path / "1", first) | draw(tmp_path / "2", second)
    annotator(connection, project_id).send(first, files)
    ids = [t["id"] for t in tasks(connection, project_id)["shown"]]

    def at_the_last_moment(_number: int, request: str, moment: Moment) -> bool:
        if "/api/dm/actions" in request and moment == "before":
            with token_client(connection.url, tokens["ann"]) as client:
                said = {"result": choice_result("c2"), "lead_time": 2.0}
                client.post(f"/api/tasks/{ids[0]}/annotations/", json=said).raise_for_status()
                client.post(f"/api/tasks/{ids[1]}/drafts", json=said).raise_for_status()
        return False

    with gate(connection.url, at_the_last_moment) as passed:
        annotator(replace(connection, url=passed.url), project_id).send(second, files)
    left = [t["data"]["key"] for t in tasks(connection, project_id)["shown"]]
    assert left == [first[0].key, first[1].key, second[0].key]
    assert [v.answer for v in annotator(connection, project_id).collect(first)] == ["c2"]


def verdict_of(entry: QueueEntry, person: str, *, key: str) -> Verdict:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Verdict(entry.sample_id, "c1", person, at, key, f"t:{key}:{person}", entry.mode, entry.iteration)


def test_a_further_opinion_is_asked_of_somebody_else(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(4, ("blind",))]
    gone = "somebody who has no account here"
    before = [(0, "ann"), (1, "bob"), (1, gone), (2, "ann"), (2, "bob")]
    known = [verdict_of(batch[n], person, key=f"before {n}") for n, person in before]
    asked = annotator(connection, project_id, opinions=1, recorded=lambda: known, labelers={"ann", "bob", gone})
    asked.send(batch, draw(tmp_path, batch))
    assert asked.waiting(batch) == 4
    assert asked.collect(batch) == []
    number = tasks(connection, project_id)["blind"][0]["project"]
    served: dict[str, set[str]] = {}
    for person in ("ann", "bob"):  # as the browser asks for the next task
        with token_client(connection.url, tokens[person]) as client:
            while (given := client.get(f"/api/projects/{number}/next/")).status_code == 200:
                served.setdefault(person, set()).add(given.json()["data"]["key"])
                said = {"result": choice_result("c1"), "lead_time": 1.0}
                client.post(f"/api/tasks/{given.json()['id']}/annotations/", json=said).raise_for_status()
    assert served["ann"] == {e.key for e in batch} - {batch[0].key}
    assert served["bob"] == {batch[0].key}
    assert {(v.key, v.person) for v in asked.collect(batch)} == {
        (e.key, "bob" if e is batch[0] else "ann") for e in batch
    }
    assert asked.waiting(batch) == 0


def test_what_was_fetched_before_its_project_vanished_is_not_asked_again(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(3, ("shown",))]
    files, ledger = draw(tmp_path, batch), ledger_of(batch, tmp_path / "ledger.db")
    asked = annotator(connection, project_id, opinions=1, recorded=ledger.verdicts)
    asked.send(batch, files)
    LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: "c1", limit=2)
    ledger.add_verdicts(asked.collect(batch))
    with token_client(connection.url, connection.token) as client:
        number = tasks(connection, project_id)["shown"][0]["project"]
        client.delete(f"/api/projects/{number}/").raise_for_status()
    assert asked.collect(batch, ledger.verdicts()) == []
    assert asked.waiting(batch) == 1
    asked.send(batch, files)
    assert [t["data"]["key"] for t in tasks(connection, project_id)["shown"]] == [batch[2].key]
    ledger.close()


def test_an_answer_deleted_in_label_studio_is_withdrawn_and_one_of_a_vanished_task_stands(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(3, ("blind",))
    asked = annotator(connection, project_id)
    asked.send(batch, draw(tmp_path, batch))
    LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: "c1")
    known = asked.collect(batch)
    with token_client(connection.url, connection.token) as client:
        client.delete(f"/api/annotations/{known[0].source.split(':')[-1]}/").raise_for_status()
        vanished = next(t for t in tasks(connection, project_id)["blind"] if t["data"]["key"] == known[1].key)
        client.delete(f"/api/tasks/{vanished['id']}/").raise_for_status()
    now = asked.collect(batch, known)
    assert [(v.source, v.answer) for v in now] == [(known[2].source, "c1"), (known[0].source, WITHDRAWN)]
    assert now[1].at > known[0].at


def test_a_project_deleted_in_label_studio_is_made_again(
    connection: Connection, project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(3)
    asked = annotator(connection, project_id)
    asked.send(batch, files := draw(tmp_path, batch))
    with token_client(connection.url, connection.token) as client:
        for stream in tasks(connection, project_id).values():
            client.delete(f"/api/projects/{stream[0]['project']}/").raise_for_status()
    assert asked.collect(batch) == []
    assert (asked.waiting(batch), asked.address()) == (6, None)
    asked.send(batch, files)
    assert sum(map(len, tasks(connection, project_id).values())) == 3


def test_classes_renamed_added_and_merged_while_tasks_are_open_keep_their_answers(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(2, ("shown",))
    annotator(connection, project_id).send(batch, files := draw(tmp_path, batch))
    LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: "c2", limit=1)
    LabelStudioPerson(connection.url, tokens["bob"]).answer(project_id, lambda key: "c1", limit=1)
    renamed = annotator(connection, project_id, classes=Classes(("c1", "c2", "c3"), ("pet", "fox", "owl")))
    renamed.send(batch, files)
    assert [v.answer for v in renamed.collect(batch)] == ["c2", "c1"]
    with token_client(connection.url, connection.token) as client:
        number = tasks(connection, project_id)["shown"][0]["project"]
        screen = client.get(f"/api/projects/{number}/").json()["label_config"]
        assert 'value="owl"' in screen
        assert "cat" not in screen.replace("catch", "")
        merged = annotator(
            connection, project_id, classes=Classes(("c1", "c2", "c3"), ("pet", "fox", "owl")), retired=("c1",)
        )
        merged.send(batch, files)
        screen = client.get(f"/api/projects/{number}/").json()["label_config"]
    assert re.findall(r'alias="(c\d)"', screen) == ["c2", "c3"]
    assert [v.answer for v in merged.collect(batch)] == ["c2", "c1"]
    assert LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: "c3") == 1


def test_a_missing_image_stops_before_anything_is_sent(connection: Connection, project_id: str, tmp_path: Path) -> None:
    batch = batch_of(3)
    files = draw(tmp_path, batch)
    files[batch[2].sample_id].unlink()
    with pytest.raises(DataError, match=r"2\.png is missing"):
        annotator(connection, project_id).send(batch, files)
    assert tasks(connection, project_id) == {}


def test_a_format_that_browsers_cannot_show_is_converted(
    connection: Connection, project_id: str, tmp_path: Path
) -> None:
    from PIL import Image

    batch = batch_of(1)
    file = tmp_path / "scan.tif"
    Image.new("L", (9, 7), 128).save(file)
    annotator(connection, project_id).send(batch, {batch[0].sample_id: file})
    with token_client(connection.url, connection.token) as client:
        served = client.get(tasks(connection, project_id)["shown"][0]["data"]["image"])
    assert served.content.startswith(b"\x89PNG")


def test_somebody_elses_server_gets_the_images_uploaded(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    environ = {"LABEL_STUDIO_URL": connection.url, "LABEL_STUDIO_API_KEY": tokens["ann"]}
    foreign = connection_from_environment(environ)
    assert foreign is not None
    batch = batch_of(120, ("shown",))
    asked = annotator(foreign, project_id)
    asked.send(batch, files := draw(tmp_path, batch))
    sent = tasks(connection, project_id)["shown"]
    assert [t["data"]["key"] for t in sent] == [e.key for e in batch]
    with token_client(connection.url, tokens["bob"]) as client:
        for task, one in ((sent[0], batch[0]), (sent[119], batch[119])):
            assert client.get(task["data"]["image"]).content == files[one.sample_id].read_bytes()


def test_somebody_elses_server_hands_on_images_of_a_bucket_that_it_knows(
    connection: Connection, tokens: dict[str, str], project_id: str, buckets: Web
) -> None:
    foreign = Connection(connection.url, connection.token)
    batch = batch_of(2, ("shown",))
    bucket = buckets.folder / "photos"
    files = draw(bucket / "cats & dogs", batch)
    addresses = {f: image_address("s3://photos/{path}", f.relative_to(bucket).as_posix(), "") for f in files.values()}
    asked = annotator(foreign, project_id, addresses=addresses, examples={"c1": [*files.values()][:1]})
    with pytest.raises(LabelStudioError, match="can't read s3://photos: its project 'House & garden · check'") as told:
        asked.send(batch, files)
    number = re.search(r"number (\d+)", str(told.value))
    assert number is not None
    with token_client(connection.url, connection.token) as client:
        storage = {"project": int(number[1]), "bucket": "photos", "use_blob_urls": True,
                   "aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}  # fmt: skip
        client.post("/api/storages/s3/", json=storage).raise_for_status()
    asked.send(batch, files)
    assert "photos/cats & dogs/0.png" in buckets.asked
    with token_client(connection.url, tokens["bob"]) as client:
        first = tasks(connection, project_id)["shown"][0]["id"]
        address = client.get(f"/api/tasks/{first}/").json()["data"]["image"]
        shown = client.get(address, follow_redirects=True)
    assert shown.content == files[batch[0].sample_id].read_bytes()
    (bucket / "cats & dogs" / "0.png").rename(bucket / "cats & dogs" / "moved.png")
    files[batch[0].sample_id] = bucket / "cats & dogs" / "moved.png"
    asked.stored_at |= {bucket / "cats & dogs" / "moved.png": addresses[bucket / "cats & dogs" / "0.png"]}
    with pytest.raises(
        LabelStudioError, match=r"labelers would not see the image s3://photos/cats & dogs/0\.png: it comes"
    ):
        asked.send(batch, files)


@pytest.mark.parametrize("token", ["wrong", "a.b.c"])
def test_a_wrong_token_is_told_without_showing_it(connection: Connection, token: str, tmp_path: Path) -> None:
    batch = batch_of(1)
    stranger = annotator(replace(connection, token=token), "x")
    with pytest.raises(LabelStudioError, match="refused our token while sending tasks") as refused:
        stranger.send(batch, draw(tmp_path, batch))
    assert "sessionid" not in str(refused.value)


def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    gone = annotator(Connection("http://127.0.0.1:9", "token"), "x")
    with pytest.raises(LabelStudioError, match="can't be reached while fetching answers"):
        gone.collect(batch_of(1))


# --- a database that is busy


def test_somebody_else_who_writes_for_long_refuses_nobody(
    label_studio: LabelStudioServer, connection: Connection, tokens: dict[str, str]
) -> None:
    """A slow disk, made by a transaction that is open for longer than the 5 s that SQLite waits by itself."""
    with closing(sqlite3.connect(label_studio.home / "server" / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(3) as pool:
            new = [pool.submit(add_person, connection, f"{n}-{uuid.uuid4().hex}@example.com", PASSWORD) for n in "xyz"]
            time.sleep(8)
            assert not any(person.done() for person in new)
            other.execute("ROLLBACK")
        assert [person.result() for person in new] == [None] * 3


# --- a connection that breaks


def test_an_import_whose_confirmation_is_lost_creates_nothing_twice(
    connection: Connection, project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(5, ("shown",))
    imports: list[int] = []

    def lose_the_first_confirmation(number: int, request: str, moment: Moment) -> bool:
        if "/import" in request and moment == "after":
            imports.append(number)
        return imports == [number] and moment == "after"

    with gate(connection.url, lose_the_first_confirmation) as passed:
        annotator(replace(connection, url=passed.url), project_id).send(batch, draw(tmp_path, batch))
    assert len(imports) == 1
    assert [t["data"]["key"] for t in tasks(connection, project_id)["shown"]] == [e.key for e in batch]


def test_two_who_ask_at_once_make_one_labeling_project(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(3, ("blind",))]
    files = draw(tmp_path / "images", [*batch, *batch_of(1)])
    (tmp_path / "labels.csv").write_text(
        "path,label,split\n" + "".join(f"{f.name},{'ab'[n % 2]},train\n" for n, f in enumerate(files.values()))
    )
    project, _ = Project.create(tmp_path / "parts", tmp_path / "images", tmp_path / "labels.csv")
    project.ledger.add_queue(
        [replace(e, sample_id=s.id, iteration=1) for e, s in zip(batch, project.samples(), strict=False)]
    )
    project.ledger.set_state(1, "waiting")
    monkeypatch.setenv("LABEL_STUDIO_URL", connection.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", connection.token)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda root: Project(root).labeling_access(), [project.root] * 2)
    assert first["streams"] == second["streams"]
    with token_client(connection.url, connection.token) as client:
        found = client.get("/api/projects/", params={"page_size": 1000}).json()["results"]
    mine = [p for p in found if f"[{project.ledger.about()['id']}/" in (p["description"] or "")]
    assert [p["task_number"] for p in mine] == [3]
    project.ledger.close()


@pytest.mark.parametrize("is_answered", [False, True])
def test_answers_count_in_a_second_project_that_was_made_all_the_same_and_nobody_is_asked_there(
    connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path, is_answered: bool
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(4, ("blind",))]
    files = draw(tmp_path, batch)
    first, second = (annotator(connection, project_id, opinions=1) for _ in range(2))
    first._marked = dict  # type: ignore[method-assign]  # both look before either has made one
    second._marked = dict  # type: ignore[method-assign]
    first.send(batch, files)
    second.send(batch, files)
    asked = annotator(connection, project_id, opinions=1)
    ((older, twin),) = asked._marked().values()
    answered = {}
    if is_answered:
        with token_client(connection.url, tokens["bob"]) as client:
            task = client.get("/api/tasks/", params={"project": twin.id, "fields": "all"}).json()["tasks"][0]
            client.post(
                f"/api/tasks/{task['id']}/annotations/", json={"result": choice_result("c2")}
            ).raise_for_status()
            answered = {task["data"]["key"]: "c2"}
    assert {v.key: v.answer for v in asked.collect(batch)} == answered
    assert asked.waiting(batch) == 4 - len(answered)
    asked.send(batch, files)
    assert [[p.id for p in ps] for ps in asked._marked().values()] == [
        [older.id, twin.id] if is_answered else [older.id]
    ]
    with token_client(connection.url, connection.token) as client:
        here, there = (
            {t["data"]["key"] for t in client.get("/api/tasks/", params={"project": p.id}).json().get("tasks", [])}
            for p in (older, twin)
        )
    assert here == {e.key for e in batch} - set(answered)
    assert there == set(answered)
    assert {v.key: v.answer for v in asked.collect(batch)} == answered
    assert LabelStudioPerson(connection.url, tokens["bob"]).answer(project_id, lambda key: "c1") == 4 - len(answered)
    assert asked.waiting(batch) == 0


def test_a_task_that_came_twice_all_the_same_is_asked_once(
    connection: Connection, project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(3, ("shown",))
    asked = annotator(connection, project_id)
    asked.send(batch, files := draw(tmp_path, batch))
    (first, *_) = tasks(connection, project_id)["shown"]
    with token_client(connection.url, connection.token) as client:
        again = client.post(f"/api/projects/{first['project']}/import", json=[{"data": first["data"]}])
        again.raise_for_status()
    asked.send(batch, files)
    left = tasks(connection, project_id)["shown"]
    assert len(left) == 3
    assert left[0]["id"] == first["id"]


# --- a project that people made themselves


def made_by_hand(connection: Connection, files: list[Path], tokens: dict[str, str]) -> tuple[int, list[int]]:
    """A Label Studio project as somebody makes one without us: uploaded images, one question, some answers."""
    screen = (
        '<View><Image name="photo" value="$picture"/><Choices name="kind" toName="photo">'
        '<Choice value="cat &amp; dog"/><Choice value="fox"/><Choice value="owl"/></Choices></View>'
    )
    title = f"Pets {uuid.uuid4().hex[:8]}"
    with token_client(connection.url, connection.token) as owner:
        made = owner.post("/api/projects/", json={"title": title, "label_config": screen, "maximum_annotations": 2})
        number = int(made.raise_for_status().json()["id"])
        parts = [(f.name, (f.name, f.read_bytes())) for f in files]
        owner.post(f"/api/projects/{number}/import", files=parts, timeout=60).raise_for_status()
        listed = owner.get("/api/tasks/", params={"project": number, "page_size": 100}).json()["tasks"]
    ids = sorted(task["id"] for task in listed)
    for place, task in enumerate(ids[:-1]):
        for person in ("ann", "bob")[: 2 if place == 0 else 1]:
            by_hand(connection, tokens[person], task, "fox" if place % 2 else "cat & dog")
    return number, ids


def by_hand(connection: Connection, token: str, task: int, name: str) -> int:
    part = {"from_name": "kind", "to_name": "photo", "type": "choices", "value": {"choices": [name]}}
    with token_client(connection.url, token) as client:
        made = client.post(f"/api/tasks/{task}/annotations/", json={"result": [part], "lead_time": 3.0})
        return int(made.raise_for_status().json()["id"])


def test_a_project_that_people_made_themselves_is_adopted_and_followed(
    connection: Connection, tokens: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [*draw(tmp_path / "photos", batch_of(7)).values()]
    number, ids = made_by_hand(connection, files, tokens)
    monkeypatch.setenv("LABEL_STUDIO_URL", connection.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", connection.token)
    root = tmp_path / "pets"

    def curate_says(*arguments: str) -> Any:
        done = CliRunner().invoke(curate, [arguments[0], str(root), *arguments[1:], "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    found = curate_says("adopt", str(number))
    assert (found["tasks"], found["answers"], found["new"], found["set_aside"]) == (7, 7, 7, [])
    project = Project(root)
    content = {f.read_bytes() for f in files}
    assert {s.file.read_bytes() for s in project.samples()} == content
    assert project.classes.names == ("cat & dog", "fox", "owl")
    now = {s.file.read_bytes(): project.ledger.labels().get(s.id) for s in project.samples()}
    given = [now[f.read_bytes()] for f in files]
    assert [g and g.class_id for g in given] == ["c1", "c2"] * 3 + [None]
    assert {(v.person, v.seconds, v.mode) for v in project.ledger.verdicts()} == {
        ("ann@example.com", 3.0, "blind"), ("bob@example.com", 3.0, "blind"),
    }  # fmt: skip
    assert curate_says("adopt", str(number))["new"] == 0

    # People go on there: one more answer, one changed, one deleted, and one task gone.
    by_hand(connection, tokens["bob"], ids[6], "owl")
    with token_client(connection.url, tokens["ann"]) as client:
        last = {t: client.get(f"/api/tasks/{t}/").json()["annotations"][0]["id"] for t in ids[1:4]}
        part = {"from_name": "kind", "to_name": "photo", "type": "choices", "value": {"choices": ["owl"]}}
        client.patch(f"/api/annotations/{last[ids[1]]}/", json={"result": [part]}).raise_for_status()
        client.delete(f"/api/annotations/{last[ids[2]]}/").raise_for_status()
        client.delete(f"/api/tasks/{ids[3]}/").raise_for_status()
    before = {v.source: v.answer for v in project.ledger.verdicts()}
    assert curate_says("sync")["adopted"]["new"] == 3
    after = {v.source: v.answer for v in project.ledger.verdicts()}
    changed = {source.split(":")[-1]: answer for source, answer in after.items() if before.get(source) != answer}
    assert changed.pop(str(last[ids[1]])) == "c3"
    assert changed.pop(str(last[ids[2]])) == WITHDRAWN
    assert list(changed.values()) == ["c3"]
    assert curate_says("sync")["adopted"]["new"] == 0
    project.ledger.close()


# --- the server (last: it goes down and comes back)


def test_a_killed_server_comes_back_with_every_answer(
    label_studio: LabelStudioServer, connection: Connection, tokens: dict[str, str], project_id: str, tmp_path: Path
) -> None:
    batch = batch_of(2, ("shown",))
    asked = annotator(connection, project_id)
    asked.send(batch, draw(tmp_path, batch))
    LabelStudioPerson(connection.url, tokens["ann"]).answer(project_id, lambda key: "c1")
    before = asked.collect(batch)
    pid = json.loads(label_studio.state_file.read_text())["pid"]
    assert LabelStudioServer(label_studio.home).start() == connection
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(LabelStudioError, match="can't be reached while fetching answers"):
        asked.collect(batch)
    assert label_studio.start() == connection
    assert json.loads(label_studio.state_file.read_text())["pid"] != pid
    assert asked.collect(batch) == before
    label_studio.stop()
    assert label_studio.running() is None
    assert label_studio.start() == connection
    assert LabelStudioPerson(connection.url, tokens["bob"]).answer(project_id, lambda key: "c1") == 2
