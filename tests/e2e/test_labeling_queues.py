"""A queue for each person in a real Label Studio: divided, handed over, answered by others, never asked twice."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from curation.cli import curate
from curation.config import Settings
from curation.errors import ConfigError
from curation.project import Project
from curation.records import BAD_IMAGE, Mode, QueueEntry, Verdict
from labeling.client import LabelStudioAnnotator
from labeling.person import LabelStudioPerson
from labeling.server import Connection, LabelStudioServer
from labeling.tasks import choice_result, image_name, owner_of
from labeling.web import token_client
from tests.contracts.test_annotators import CLASSES, draw, entry
from tests.tests_gate import Moment, gate
from tests.tests_labeling import open_stream, press

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e

NAMES = {"ann@example.com": "Ann", "bob@example.com": "Bob", "zoe@example.com": "Zoë"}


def batch_of(*modes: Mode, opinions: int = 1) -> list[QueueEntry]:
    return [entry(uuid.uuid4().hex, mode, n, opinions=opinions) for n, mode in enumerate(modes)]


class Desk:
    """A curation project's labeling, with a ledger in a list."""

    def __init__(self, connection: Connection, project_id: str, batch: list[QueueEntry], files: dict[str, Path]):
        self.connection, self.project_id, self.batch, self.files = connection, project_id, batch, files
        self.recorded: dict[str, Verdict] = {}

    def annotator(self, *people: str, url: str = "") -> LabelStudioAnnotator:
        return LabelStudioAnnotator(
            replace(self.connection, url=url or self.connection.url), project_name="House & garden",
            project_id=self.project_id, classes=CLASSES, person_names=NAMES, own_queues=lambda: people,
            labelers=("Ann", "Bob"), earlier=lambda: self.batch, recorded=lambda: [*self.recorded.values()],
        )  # fmt: skip

    def send(self, *people: str) -> None:
        self.annotator(*people).send(self.batch, self.files)

    def collect(self) -> list[tuple[str, str]]:
        """Who has answered what, by the ledger, after new answers have come."""
        found = self.annotator().collect(self.batch, [*self.recorded.values()])
        self.recorded |= {v.source: v for v in found}
        return sorted((v.person, v.key) for v in self.recorded.values() if v.answer != "withdrawn")

    def tasks(self, person: str = "") -> dict[str, list[dict[str, Any]]]:
        """The tasks in a person's queue, or in the shared one, by stream, in served order."""
        found: dict[str, list[dict[str, Any]]] = {"shown": [], "blind": []}
        with token_client(self.connection.url, self.connection.token) as client:
            for project in client.get("/api/projects/", params={"page_size": 1000}).json()["results"]:
                mark = re.search(rf"\[{self.project_id}/(\w+)(?:-(\w+))?\]", project["description"] or "")
                if mark and (mark[2] or "") == (owner_of(person) if person else ""):
                    asked = {"project": project["id"], "page_size": 1000, "fields": "all"}
                    listed = client.get("/api/tasks/", params=asked).json()["tasks"]
                    found[mark[1]] += sorted(listed, key=lambda t: t["id"])
        return found

    def keys(self, person: str = "", *, unanswered: bool = False) -> list[str]:
        """The keys of the tasks in a queue, shown ones first."""
        every = [t for stream in self.tasks(person).values() for t in stream]
        return [t["data"]["key"] for t in every if not unanswered or not t["total_annotations"]]

    def progress(self, *people: str) -> list[tuple[str, int, int]]:
        return [(row.person, row.answered, row.asked) for row in self.annotator(*people).queues(self.batch)]


@pytest.fixture
def desk(connection: Connection, project_id: str, tmp_path: Path) -> Desk:
    batch = batch_of(*["shown"] * 6, *["blind"] * 2, *["control"] * 4)
    return Desk(connection, project_id, batch, draw(tmp_path / "images", batch))


def says(connection: Connection, token: str, task: dict[str, Any], answer: str = "c1") -> int:
    with token_client(connection.url, token) as client:
        given = {"result": choice_result(answer), "lead_time": 2.0}
        return int(client.post(f"/api/tasks/{task['id']}/annotations/", json=given).raise_for_status().json()["id"])


def test_each_person_has_half_of_the_batch_the_worst_first_and_blind_ones_that_tell_nothing(
    desk: Desk, tokens: dict[str, str]
) -> None:
    desk.send("Ann", "Bob")
    mode_of = {e.key: e.mode for e in desk.batch}
    queues = {person: desk.tasks(person) for person in ("Ann", "Bob")}
    for queue in queues.values():
        assert Counter(mode_of[t["data"]["key"]] for t in queue["blind"]) == {"blind": 1, "control": 2}
        assert {frozenset(t["data"]) for t in queue["blind"]} == {frozenset({"key", "image"})}
        keys = [t["data"]["key"] for t in queue["blind"]]
        assert keys == sorted(keys)
    shown = [[t["data"]["key"] for t in queues[person]["shown"]] for person in ("Ann", "Bob")]
    assert shown == [[e.key for e in desk.batch[:6:2]], [e.key for e in desk.batch[1:6:2]]]
    assert sorted(desk.keys("Ann") + desk.keys("Bob")) == sorted(e.key for e in desk.batch)
    assert desk.tasks() == {"shown": [], "blind": []}
    ann = LabelStudioPerson(desk.connection.url, tokens["ann"])
    assert ann.answer(desk.project_id, lambda key: "c2", queue_of="Ann") == 6
    assert desk.progress("Ann", "Bob") == [("Ann", 6, 6), ("Bob", 0, 6)]
    assert desk.collect() == sorted(("Ann", key) for key in desk.keys("Ann"))
    assert desk.annotator("Ann", "Bob").waiting(desk.batch) == 6
    with token_client(desk.connection.url, tokens["bob"]) as client:
        assert client.get(queues["Bob"]["blind"][0]["data"]["image"]).status_code == 200
    desk.send("Ann", "Bob")  # asks nobody twice, and moves nothing to whoever is done
    assert {person: desk.tasks(person).keys() for person in queues} == {
        person: q.keys() for person, q in queues.items()
    }
    assert [desk.keys(person) for person in queues] == [
        [t["data"]["key"] for stream in q.values() for t in stream] for q in queues.values()
    ]


def test_open_tasks_of_who_is_away_are_handed_over_and_answered_ones_stay(
    desk: Desk, tokens: dict[str, str], label_studio: LabelStudioServer
) -> None:
    desk.send("Ann", "Bob")
    hers, his = desk.keys("Ann"), desk.keys("Bob")
    answered = desk.tasks("Bob")["shown"][:2]
    says(desk.connection, tokens["bob"], answered[0])
    deleted = says(desk.connection, tokens["bob"], answered[1])
    begun = desk.tasks("Bob")["blind"][0]
    with token_client(desk.connection.url, tokens["bob"]) as client:
        client.post(f"/api/tasks/{begun['id']}/drafts", json={"result": choice_result("c1")}).raise_for_status()
    desk.collect()
    with token_client(desk.connection.url, tokens["bob"]) as client:
        client.delete(f"/api/annotations/{deleted}/").raise_for_status()

    desk.send("Ann", "Bob")
    assert (desk.keys("Ann"), desk.keys("Bob")) == (hers, his)
    desk.send("Ann")
    kept = [t["data"]["key"] for t in answered]  # the second until we know that its answer is gone
    assert desk.keys("Bob") == kept
    moved = [key for key in his if key not in kept]
    assert desk.keys("Ann", unanswered=True)[:3] == hers[:3]
    assert sorted(desk.keys("Ann")) == sorted([*hers, *moved])
    assert [person for person, _ in desk.collect()] == ["Bob"]
    desk.send("Ann")
    assert desk.keys("Bob") == kept[:1]
    LabelStudioPerson(desk.connection.url, tokens["ann"]).answer(desk.project_id, lambda key: "c1", queue_of="Ann")
    assert Counter(person for person, _ in desk.collect()) == {"Ann": 11, "Bob": 1}
    assert desk.annotator("Ann").waiting(desk.batch) == 0
    served = {p.name for p in label_studio.images.rglob("*.png")}
    shown = [t["data"]["image"].split("/")[-1] for p in ("Ann", "Bob") for s in desk.tasks(p).values() for t in s]
    assert len(shown) == 12
    assert set(shown) <= served
    his_own = {p.stem for s in ("shown", "blind") for p in (label_studio.images / f"{s}-{owner_of('Bob')}").iterdir()}
    assert not his_own & {image_name(key) for key in moved}


def test_an_answer_that_comes_while_its_task_is_handed_over_is_asked_of_nobody_else(
    desk: Desk, tokens: dict[str, str]
) -> None:
    desk.send("Ann", "Bob")
    last = desk.tasks("Bob")["shown"][0]

    def at_the_last_moment(_number: int, request: str, moment: Moment) -> bool:
        if "/api/dm/actions" in request and moment == "before" and not said:
            said.append(says(desk.connection, tokens["bob"], last))
        return False

    said: list[int] = []
    with gate(desk.connection.url, at_the_last_moment) as passed:
        desk.annotator("Ann", url=passed.url).send(desk.batch, desk.files)
    assert desk.keys("Bob") == [last["data"]["key"]]
    assert len(desk.keys("Ann")) == 11
    assert desk.collect() == [("Bob", last["data"]["key"])]


def test_who_comes_while_the_batch_is_open_gets_a_share_and_all_can_share_again(
    desk: Desk, tokens: dict[str, str]
) -> None:
    desk.send()
    says(desk.connection, tokens["ann"], desk.tasks()["shown"][0])
    desk.send("Ann")
    assert len(desk.keys()) == 1
    assert len(desk.keys("Ann")) == 11
    begun = desk.tasks("Ann")["shown"][-1]  # the first that would be Bob's, but Ann is at work on it
    with token_client(desk.connection.url, tokens["ann"]) as client:
        client.post(f"/api/tasks/{begun['id']}/drafts", json={"result": choice_result("c1")}).raise_for_status()
    desk.send("Ann", "Bob")
    assert (len(desk.keys("Ann")), len(desk.keys("Bob"))) == (6, 5)
    assert begun["data"]["key"] in desk.keys("Ann")
    assert not set(desk.keys("Ann")) & set(desk.keys("Bob"))
    says(desk.connection, tokens["bob"], desk.tasks("Bob")["blind"][0])
    desk.send()
    assert (len(desk.keys("Ann")), len(desk.keys("Bob")), len(desk.keys())) == (0, 1, 11)
    assert desk.progress() == []
    assert list(desk.annotator().addresses()) == ["shown", "blind"]
    assert [person for person, _ in desk.collect()] == ["Ann", "Bob"]


def test_somebody_else_answers_in_a_queue_and_a_second_opinion_is_the_others(
    desk: Desk, tokens: dict[str, str]
) -> None:
    desk.batch = [replace(e, opinions=2) for e in desk.batch[:2]]
    desk.send("Ann", "Bob")
    assert desk.keys("Ann") == desk.keys("Bob") == [e.key for e in desk.batch]
    for task in desk.tasks("Ann")["shown"]:
        says(desk.connection, tokens["bob"], task)  # Bob opened Ann's queue by mistake
    assert desk.collect() == sorted(("Bob", e.key) for e in desk.batch)
    desk.send("Ann", "Bob")
    assert desk.keys("Bob") == []
    assert desk.progress("Ann", "Bob") == [("Ann", 0, 2), ("Bob", 2, 2)]
    number = desk.tasks("Ann")["shown"][0]["project"]
    with token_client(desk.connection.url, tokens["ann"]) as client:  # as her browser asks for the next task
        while (given := client.get(f"/api/projects/{number}/next/")).status_code == 200:
            says(desk.connection, tokens["ann"], given.json(), "c2")
    assert desk.annotator("Ann", "Bob").waiting(desk.batch) == 0
    # Asked about again, blind: the first of Ann, as if only Bob had judged it, the second of either, as both have.
    third = [replace(e, key=uuid.uuid4().hex, mode="blind", opinions=1) for e in desk.batch]
    said = desk.collect()
    assert len(said) == 4
    desk.recorded = {s: v for s, v in desk.recorded.items() if (v.person, v.key) != ("Ann", desk.batch[0].key)}
    desk.batch = third
    desk.send("Ann", "Bob")
    asked = {person: {t["data"]["key"] for t in desk.tasks(person)["blind"]} for person in ("Ann", "Bob")}
    assert asked == {"Ann": {third[0].key}, "Bob": {third[1].key}}


def test_a_vanished_queue_is_made_again_without_what_was_answered(desk: Desk, tokens: dict[str, str]) -> None:
    desk.send("Ann", "Bob")
    LabelStudioPerson(desk.connection.url, tokens["ann"]).answer(
        desk.project_id, lambda key: "c1", queue_of="Ann", limit=2
    )
    assert len(desk.collect()) == 2
    number = desk.tasks("Ann")["shown"][0]["project"]
    before = desk.keys("Ann")
    with token_client(desk.connection.url, desk.connection.token) as client:
        client.delete(f"/api/projects/{number}/").raise_for_status()
    desk.send("Ann", "Bob")
    assert desk.keys("Ann") == before[2:]
    assert len(desk.collect()) == 2


def test_a_queue_for_somebody_without_an_account_is_refused(desk: Desk) -> None:
    with pytest.raises(ConfigError, match=r"'review\.people' names 'Cyd', who has no account in the Label Studio"):
        desk.send("Ann", "Cyd")
    assert desk.tasks("Ann") == {"shown": [], "blind": []}


def test_two_people_label_in_the_browser_each_in_a_queue_of_their_own(
    connection: Connection, browser: Browser, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(*["shown"] * 4, *["blind"] * 2)
    files = draw(tmp_path / "images", [*batch, *batch_of("shown", "shown")])
    rows = [f"{f.name},{('cat', 'fox')[n % 2]},train\n" for n, f in enumerate(files.values())]
    (tmp_path / "labels.csv").write_text("path,label,split\n" + "".join(rows))
    project, _ = Project.create(
        tmp_path / "parts", tmp_path / "images", tmp_path / "labels.csv", settings=Settings(name="House & garden")
    )
    batch = [replace(e, sample_id=s.id, iteration=1) for e, s in zip(batch, project.samples(), strict=False)]
    project.ledger.add_queue(batch)
    project.ledger.set_state(1, "waiting")
    monkeypatch.setenv("LABEL_STUDIO_URL", connection.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", connection.token)

    def curate_says(*arguments: str, code: int = 0) -> Any:
        done = CliRunner().invoke(curate, [arguments[0], str(project.root), *arguments[1:], "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if not code else done

    def name_people(names: str) -> None:
        settings = project.paths.settings.read_text()
        project.paths.settings.write_text(re.sub(r"people = \[.*\]", f"people = [{names}]", settings))

    once = uuid.uuid4().hex[:8]
    cyd, dan = f"Cyd {once}", f"Dan {once}"
    name_people(f'"{cyd}", "{dan}"')
    assert isinstance(curate_says("label", code=1).exception, ConfigError)
    first = curate_says("people", "--add", cyd)
    assert first["streams"] == {}  # Dan has no account yet, so nothing can be divided
    second = curate_says("people", "--add", dan)
    queues = {row["person"]: row for row in curate_says("label")["people"]}
    assert [(row["answered"], row["asked"]) for row in queues.values()] == [(0, 3), (0, 3)]
    assert second["streams"] == queues[dan]["addresses"]
    for who, account, keys in ((cyd, first, ("1", "2")), (dan, second, ("x",))):
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.goto(connection.url)
        page.fill("[name=email]", account["email"])
        page.fill("[name=password]", account["password"])
        page.keyboard.press("Enter")
        page.wait_for_selector(f"text={who} · check · House & garden"[:50])
        if who == cyd:
            page.wait_for_timeout(500)
            page.screenshot(path=artifacts / "labeling-queues-1366.png")
        open_stream(page, queues[who]["addresses"]["shown"])
        page.wait_for_function("() => document.querySelector('.ct-progress')?.innerText.startsWith('0 / 2')")
        for key in keys:
            press(page, key)
        if who == cyd:
            page.wait_for_selector("text=No More Tasks", timeout=20_000)
        page.close()
    assert curate_says("sync")["missing"] == 3
    said = {(v.person, v.answer) for v in project.ledger.verdicts()}
    assert said == {(cyd, "c1"), (cyd, "c2"), (dan, BAD_IMAGE)}
    assert [(row["person"], row["answered"], row["asked"]) for row in curate_says("people", "--queues")] == [
        (cyd, 2, 3), (dan, 1, 3),
    ]  # fmt: skip
    for command in ("people", "status", "label", "sync"):
        told = CliRunner().invoke(curate, [command, str(project.root)]).output
        assert f"{cyd}: 2 of 3 answered" in told
        assert (queues[dan]["addresses"]["blind"] in told) == (command in ("people", "label"))
    (iteration,) = curate_says("status")["iterations"]
    assert iteration["people"][1] == {"person": dan, "answered": 1, "asked": 3}

    name_people(f'"{cyd}"')  # Dan is away, and a run that waits since before hears of it
    assert project.send_open(1)
    with token_client(connection.url, connection.token) as client:
        for who, count in ((dan, 1), (cyd, 3)):
            number = queues[who]["addresses"]["shown"].split("/")[4]
            assert client.get(f"/api/projects/{number}/").json()["task_number"] == count
    assert [(row["person"], row["answered"], row["asked"]) for row in curate_says("label")["people"]] == [
        (cyd, 2, 5), (dan, 1, 1),
    ]  # fmt: skip
    project.ledger.close()
