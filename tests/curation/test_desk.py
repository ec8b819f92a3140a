"""A project and the people who label: classes, the class guide, answers in files, and what stands out."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests_stand_ins import draw
from tests_web import Web, web_server

from curation import desk
from curation.asking import Asking
from curation.cli import curate
from curation.config import Settings
from curation.errors import DataError
from curation.goal import goal_of, keep_goal
from curation.project import Project
from curation.records import Mode, QueueEntry, Verdict
from curation.runs import write_json
from labeling import adopting

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    truth = draw(tmp_path / "images", 24)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{c}\n" for p, c in truth.items()))
    made, _ = Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv", settings=Settings())
    return made


def said(sample: str, person: str, answer: str, *, minute: int = 0, note: str = "", seconds: float = 2.0) -> Verdict:
    at = NOON + timedelta(minutes=minute)
    return Verdict(sample, answer, person, at, f"k{sample}", f"t:{sample}:{person}:{minute}", "shown", 1, seconds, note)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The emails of a stand-in for Label Studio."""
    there: set[str] = set()

    def add(_connection: object, email: str, _password: str) -> None:
        time.sleep(0.02)
        there.add(email)

    monkeypatch.setattr("labeling.server.add_person", add)
    monkeypatch.setattr("labeling.server.emails", lambda _connection: set(there))
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    return there


def test_accounts_made_at_once_keep_their_names(project: Project, accounts: set[str]) -> None:
    names = [f"P{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: desk.add_labeler(project, name), names))
    assert sorted(project.labelers().values()) == names
    assert len(accounts) == 4


def test_every_name_gets_an_email_of_its_own(project: Project, accounts: set[str]) -> None:
    accounts.add("zoe@example.com")  # of another project in the same Label Studio
    made = {name: desk.add_labeler(project, name)["email"] for name in ("太郎", "花子", "Zoë", "Zoé", "Ann")}
    assert made == {
        "太郎": "labeler@example.com", "花子": "labeler.2@example.com", "Zoë": "zoe.2@example.com",
        "Zoé": "zoe.3@example.com", "Ann": "ann@example.com",
    }  # fmt: skip
    with pytest.raises(DataError, match=r"'Ann' has an account already \(ann@example\.com\)"):
        desk.add_labeler(project, "Ann")
    with pytest.raises(DataError, match=r"Zoe@example\.com already; give another with --email"):
        desk.add_labeler(project, "Zoe", email="Zoe@example.com")
    with pytest.raises(DataError, match=r"ann@example\.com is the email of 'Ann'; give another with --email"):
        desk.add_labeler(project, "Anna", email="ann@example.com")
    accounts.remove("ann@example.com")  # as where Label Studio's files were deleted
    assert desk.add_labeler(project, "Ann")["email"] == "ann@example.com"


def test_a_renamed_class_keeps_its_labels(project: Project) -> None:
    before = project.labels()["label"].eq("left").sum()
    desk.rename_class(project, "left", "port", who="ann")
    assert project.labels()["label"].eq("port").sum() == before > 0
    for taken in ("right", "ambiguous", " "):
        with pytest.raises(DataError, match="can't be a class name"):
            desk.rename_class(project, "port", taken, who="ann")


def test_a_class_whose_name_cannot_be_shown_is_neither_added_nor_made_by_renaming(project: Project) -> None:
    for odd in ("a\x0bb", "a\nb", "a" * 201):
        with pytest.raises(DataError, match="can't be shown to people"):
            desk.add_class(project, odd, who="ann")
        with pytest.raises(DataError, match="can't be shown to people"):
            desk.rename_class(project, "left", odd, who="ann")
    assert project.classes.names == ("left", "right")


@pytest.mark.parametrize("number", [-1, 2, 99])
def test_labels_as_of_an_iteration_that_is_not_there_are_refused(project: Project, number: int) -> None:
    project.ledger.set_state(1, "waiting")
    assert project.labels(as_of=0)["label"].tolist() == project.labels(as_of=1)["label"].tolist()
    with pytest.raises(DataError, match=rf"no iteration {number}; there are \[0, 1\] \(0: labels as given\)"):
        project.labels(as_of=number)


def test_a_merged_class_moves_its_labels_and_is_asked_for_no_more(project: Project) -> None:
    desk.add_class(project, "leftish", who="ann")
    moved = desk.merge_class(project, "left", "leftish", who="ann")
    assert moved == project.labels()["label"].eq("leftish").sum() > 0
    assert project.classes_asked().names == ("right", "leftish")
    assert project.classes.names == ("left", "right", "leftish")
    assert desk.merge_class(project, "left", "leftish", who="ann") == 0
    with pytest.raises(
        DataError, match=r"'right' can't be merged into 'left'; it can be merged into one of \['leftish'\]"
    ):
        desk.merge_class(project, "right", "left", who="ann")
    with pytest.raises(DataError, match=r"'right' can't be merged into 'right'; .* one of \['leftish'\]"):
        desk.merge_class(project, "right", "right", who="ann")
    desk.merge_class(project, "leftish", "right", who="ann")
    assert project.ledger.merged_classes() == {"c1": "c2", "c3": "c2"}
    assert set(project.labels()["label"]) == {"right"}


def test_no_label_is_of_a_class_that_was_merged_whatever_reviewers_say_and_take_back(project: Project) -> None:
    desk.add_class(project, "leftish", who="ann")
    labels = project.labels()
    train = labels[labels["split"] == "train"]
    one, other = train[train["label"] == "left"]["sample_id"][:2]
    project.judge([other], "bad image", person="ann")
    desk.merge_class(project, "left", "leftish", who="ann")
    assert project.take_back([one], person="ann").left_alone, "that classes were merged is no change of this image"
    project.judge([one], "right", person="ann")
    assert project.judge([one], "left", person="ben").changed == (one,)
    assert project.judge([other], person="ben").changed == (other,)
    now = project.labels().set_index("sample_id")["label"]
    assert (now[one], now[other], project.live([one])[0]["review"]) == ("leftish", "leftish", "leftish (ben)")
    project.take_back([one], person="ben")
    assert project.labels().set_index("sample_id")["label"][one] == "right"
    desk.merge_class(project, "right", "leftish", who="ann")
    assert set(project.labels()["label"]) == {"leftish"}


def test_a_ruling_is_versioned_and_tells_agreement_before_and_after(project: Project) -> None:
    a, b, c = (s.id for s in project.samples()[:3])
    project.ledger.add_verdicts(
        [said(a, "ann", "c1"), said(a, "bob", "c2"), said(b, "ann", "c1"), said(b, "bob", "c1")]
    )
    project.ledger.rule(["c2", "c1"], "Left is where the heart is.", who="eve", at=NOON + timedelta(minutes=1))
    project.ledger.add_verdicts([said(c, "ann", "c2", minute=2), said(c, "bob", "c2", minute=3)])
    (row,) = desk.disputes(project).to_dict(orient="records")
    assert (row["first"], row["second"], row["images"]) == ("left", "right", 1)
    assert row["paths"] == [project.samples()[0].path]
    assert (row["agreement_before"], row["pairs_before"]) == (0.5, 2)
    assert (row["agreement_after"], row["pairs_after"]) == (1.0, 1)
    desk.rule(project, ["left"], "The bright side is left.", who="eve")
    desk.rule(project, ["left"], "The dark side is left.", who="eve")
    assert len(project.ledger.guide()) == 3
    assert project.guide_texts() == {
        "c1": "The dark side is left. Left is where the heart is.", "c2": "Left is where the heart is.",
    }  # fmt: skip
    with pytest.raises(DataError):
        desk.rule(project, ["left", "up"], "x", who="eve")


def test_other_and_ambiguous_come_up_as_questions(project: Project) -> None:
    sample = project.samples()[0]
    project.ledger.add_verdicts([said(sample.id, "ann", "other", note="a tram"), said(sample.id, "bob", "c1")])
    assert desk.open_questions(project).to_numpy().tolist() == [[sample.path, "other", "a tram", "ann"]]


def test_who_is_hasty_or_agrees_with_everything_stands_out(project: Project) -> None:
    samples = [s.id for s in project.samples()[:12]]
    project.ledger.add_queue(
        [QueueEntry(f"k{s}", s, 1, n, "shown", "c1", "c2" if n % 2 else "c1", "") for n, s in enumerate(samples)]
    )
    project.ledger.add_verdicts(
        [v for n, s in enumerate(samples) for v in (
            said(s, "hasty", "c2" if n % 2 else "c1", seconds=0.4), said(s, "zoe", "c1"))]
    )  # fmt: skip
    table = desk.labelers(project).set_index("person")
    assert table["note"].to_dict() == {"hasty": "answers in under 1 s; agrees with every suggestion", "zoe": ""}
    assert table.loc["zoe", "follows_suggestion"] == 0.5


def test_an_erased_name_is_in_no_file_of_the_project(project: Project) -> None:
    home = project.paths.home
    write_json(home / "people.json", {"z@example.com": "Zebedee", "b@example.com": "Bob"}, private=True)
    write_json(home / "queues.json", {"iteration": 1, "people": [{"person": "Zebedee"}]}, private=True)
    project.ledger.add_verdicts([replace(said(project.samples()[0].id, "Zebedee", "c1"), source="t:1")])
    found = CliRunner().invoke(curate, ["people", str(project.root), "--erase", "Zebedee"])
    assert found.exit_code == 0, found.output
    assert "erased person 1" in found.stdout
    assert project.labelers() == {"b@example.com": "Bob"}
    holding = [file for file in home.rglob("*") if file.is_file() and b"Zebedee" in file.read_bytes()]
    assert holding == []


def test_answers_of_an_erased_person_that_come_again_are_still_theirs(project: Project, tmp_path: Path) -> None:
    sample = project.samples()[0]
    project.ledger.add_queue([QueueEntry("k", sample.id, 1, 0, "blind", "c1", None, "", (), 2)])
    table, replay = tmp_path / "answers.csv", tmp_path / "replay.csv"
    table.write_text("key,label,annotator\nk,right,Zebedee\n")
    replay.write_text(f"path,label,annotator\n{sample.path},right,Zebedee\n")
    people = project._asking.annotator(f"replay:{replay}", None)
    replayed = people().collect(project.ledger.queue())
    project.ledger.add_verdicts(replayed)
    desk.sync_file(project, table)
    desk.erase_person(project, "Zebedee")
    assert desk.sync_file(project, table)["new"] == 0
    again = project._asking.annotator(f"replay:{replay}", None)().collect(project.ledger.queue())
    assert project.ledger.add_verdicts(again) == 0
    table.write_text("key,label,annotator\nk,left,Zebedee\n")  # the file is sent again, corrected
    os.utime(table, (2_000_000_000, 2_000_000_000))
    assert desk.sync_file(project, table)["new"] == 1
    assert [(v.person, v.answer) for v in project.ledger.verdicts()] == [
        ("erased person 1", "c2"), ("erased person 1", "c1"),
    ]  # fmt: skip
    assert project.ledger.people() == ["erased person 1"]


def test_answers_in_a_file_reach_the_ledger_once(project: Project, tmp_path: Path) -> None:
    sample = project.samples()[0]
    project.ledger.add_queue([QueueEntry("k", sample.id, 1, 0, "blind", "c1", None, "")])
    file = tmp_path / "answers.csv"
    file.write_text("key,label,annotator\nk,right,ann\nnone,right,ann\n")
    found = desk.sync_file(project, file)
    assert (found["answers"], found["new"], len(found["set_aside"])) == (1, 1, 1)
    assert desk.sync_file(project, file)["new"] == 0
    (verdict,) = project.ledger.verdicts()
    assert (verdict.answer, verdict.person) == ("c2", "ann")


def test_the_commands_take_a_batch_out_and_its_answers_in(project: Project, tmp_path: Path) -> None:
    modes: list[Mode] = ["shown", "blind", "control"]
    project.ledger.add_queue(
        [QueueEntry(f"k{n}", s.id, 1, n, modes[n], "c1", "c2", "why") for n, s in enumerate(project.samples()[:3])]
    )
    project.ledger.set_state(1, "waiting")

    def curate_says(*arguments: str) -> str:
        done = CliRunner().invoke(curate, list(arguments))
        assert done.exit_code == 0, done.output
        return done.output

    root = str(project.root)
    assert curate_says("classes", root, "--rename", "left", "port").split() == ["port", "right"]
    curate_says("guide", root, "--class", "port", "--class", "right", "--rule", "Red is port.")
    written = curate_says("export", root, "--format", "label-studio", "--out", str(tmp_path / "out")).split()
    assert all(Path(file).is_file() for file in written)
    assert "Red is port." in (tmp_path / "out" / "screen-blind.xml").read_text()
    answers = tmp_path / "answers.csv"
    answers.write_text("key,label,annotator\n" + "".join(f"k{n},port,ann\nk{n},right,bob\n" for n in range(3)))
    assert "6 answers, 6 of them new" in curate_says("sync", root, "--from", str(answers))
    assert "6 answers, 0 of them new" in curate_says("sync", root, "--from", str(answers))
    assert "people disagree on 3 images" in curate_says("guide", root)
    assert "ann" in curate_says("people", root, "--quality")


def test_holdout_checks_that_were_answered_in_files_are_waited_for_no_longer(project: Project, tmp_path: Path) -> None:
    check = QueueEntry("k", project.samples()[0].id, 1, 0, "holdout", "c1", None, "", opinions=2)
    project.ledger.add_queue([check])
    people = Asking(project.paths, project.settings, project.ledger, print).annotator("files", None)()
    assert people.waiting([check]) == 2
    file = tmp_path / "answers.csv"
    file.write_text("key,label,annotator\nk,left,ann\nk,left,bob\n")
    assert desk.sync_file(project, file)["new"] == 2
    assert people.waiting([check]) == 0


def test_a_batch_for_files_goes_to_no_label_studio_and_people_are_told_how_to_answer(
    project: Project, accounts: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.ledger.add_queue([QueueEntry("k", project.samples()[0].id, 1, 0, "shown", "c1", "c2", "why")])
    project.ledger.set_state(1, "waiting")
    keep_goal(project.paths, goal_of(project.paths, project.settings, 1, annotator="files"))
    said: list[str] = []
    asking = Asking(project.paths, project.settings, project.ledger, said.append)
    asking.say_waiting(1, asking.annotator("files", None)())
    how = (
        f"`curate export {project.root} --format label-studio --out FOLDER` writes what is asked, "
        f"`curate sync {project.root} --from FILE` takes the answers; then `curate run {project.root}` goes on."
    )
    assert said == ["Iteration 1 waits for people: 1 of 1 answers to come.", how]
    access = project.labeling_access()
    assert (access["streams"], access["people"], access["by_files"]) == ({}, [], how)
    assert project.send_open(1) is False
    shown = CliRunner().invoke(curate, ["label", str(project.root)])
    assert shown.output.splitlines() == ["Label Studio: http://127.0.0.1:9", f"Answers come in files: {how}"]


def batch_keys(folder: Path) -> list[str]:
    with (folder / "batch.csv").open() as text:
        return [row["key"] for row in csv.DictReader(text)]


def test_a_batch_is_written_without_what_a_reviewer_settled(project: Project, tmp_path: Path) -> None:
    asked = [s for s in project.samples() if s.split == "train"][:3]
    project.ledger.add_queue([QueueEntry(f"k{n}", s.id, 1, n, "shown", "c1", "c2", "why") for n, s in enumerate(asked)])
    project.ledger.set_state(1, "waiting")
    project.judge([asked[1].id], "right", person="Ann")
    desk.export_batch(project, tmp_path / "out")
    assert batch_keys(tmp_path / "out") == ["k0", "k2"]


def test_a_batch_is_written_without_images_that_are_gone_or_were_changed(project: Project, tmp_path: Path) -> None:
    asked = [s for s in project.samples() if s.split == "train"][:3]
    project.ledger.add_queue([QueueEntry(f"k{n}", s.id, 1, n, "shown", "c1", "c2", "why") for n, s in enumerate(asked)])
    project.ledger.set_state(1, "waiting")
    asked[0].file.unlink()
    asked[2].file.write_bytes(b"another picture")
    said: list[str] = []
    desk.export_batch(Project(project.root, say=said.append), tmp_path / "out")
    assert batch_keys(tmp_path / "out") == ["k1"]
    assert [line.split(":")[0] for line in said] == ["Set aside"] * 2
    assert asked[0].path in said[0]


def test_addresses_of_images_come_by_the_path_within_their_folder(project: Project) -> None:
    def addresses() -> dict[Path, str]:
        return Asking(project.paths, project.settings, project.ledger, print).addresses_of_images()

    assert addresses() == {}
    review = replace(project.settings.review, images_url="https://host/in/{path}?v={id}")
    project.settings = replace(project.settings, review=review)
    first = project.samples()[0]
    assert addresses()[first.file] == f"https://host/in/{first.path}?v={first.id}"


def test_an_adopted_project_of_another_label_studio_is_told_and_left_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://here:1")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    assert desk.sync_adopted(project)["set_aside"] == []
    write_json(project.paths.home / "adopted.json", [{"url": "http://there:2", "project": 7}])
    found = desk.sync_adopted(project)
    (reason,) = found.pop("set_aside")
    assert found == {"project": "", "tasks": 0, "answers": 0, "new": 0}
    assert "project 7 is in the Label Studio at http://there:2, which LABEL_STUDIO_URL does not name now" in reason
    done = CliRunner().invoke(curate, ["sync", str(project.root)])
    assert (done.exit_code, "http://there:2" in done.output) == (0, True), done.output


class Theirs:
    """A Label Studio project of a few images at a web server, in which ann says of each what it shows."""

    def __init__(self, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
        self.web = web
        self.truth = {f"pets/{path}": label for path, label in draw(web.folder / "pets", 8).items()}
        self.asked = list(self.truth)[:6]
        monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
        project = adopting.TheirProject(7, "Pets", "2026-01-01T00:00:00Z", ("left", "right"), "picture")
        monkeypatch.setattr(adopting, "find_project", lambda *_: project)
        monkeypatch.setattr(adopting, "read_people", lambda *_: {3: "ann"})
        monkeypatch.setattr(
            adopting, "read_tasks", lambda *_: adopting.their_tasks(map(self.task, self.asked), "picture")
        )

    def task(self, path: str) -> dict[str, object]:
        number, moment = list(self.truth).index(path), "2026-01-02T00:00:00Z"
        part = {"type": "choices", "value": {"choices": [self.truth[path]]}}
        said = {"id": number, "result": [part], "completed_by": 3, "updated_at": moment}
        return {
            "id": number,
            "updated_at": moment,
            "data": {"picture": f"{self.web.url}/{path}"},
            "annotations": [said],
        }


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theirs]:
    with web_server(tmp_path / "web") as web:
        yield Theirs(web, monkeypatch)


def test_an_image_that_could_not_be_had_comes_when_its_project_is_adopted_again(theirs: Theirs, tmp_path: Path) -> None:
    root, gone = tmp_path / "p", theirs.web.folder / theirs.asked[2]
    gone.rename(gone.with_suffix(".away"))
    found = desk.adopt(root, "Pets")
    assert (found["answers"], found["new"], len(found["set_aside"])) == (5, 5, 2)
    assert "(status 404)" in found["set_aside"][0]
    assert desk.sync_adopted(Project(root))["set_aside"] == [
        "task 2 of project 'Pets' is of no image of this project; `curate adopt` fetches it"
    ]
    gone.with_suffix(".away").rename(gone)
    theirs.asked = list(theirs.truth)  # and there are two more tasks now
    web_asked = len(theirs.web.asked)
    found = desk.adopt(root, "Pets")
    assert (found["answers"], found["new"], found["set_aside"]) == (8, 3, [])
    assert len(theirs.web.asked) - web_asked == 3
    project = Project(root)
    labels = project.labels()
    assert dict(zip(labels["path"], labels["label"], strict=True)) == theirs.truth
    assert not (project.paths.home / "fetched.csv").exists()
    assert desk.adopt(root, "Pets")["new"] == 0


def test_what_is_no_image_is_told_and_the_answers_to_others_come(theirs: Theirs, tmp_path: Path) -> None:
    desk.adopt(tmp_path / "p", "Pets")
    theirs.asked = list(theirs.truth)[:7]
    theirs.web.content = b"<html>Sign in</html>"
    found = desk.adopt(tmp_path / "p", "Pets")
    assert "is not an image of a known format" in found["set_aside"][0]
    assert found["answers"] == 6
    theirs.web.content = None
    assert desk.adopt(tmp_path / "p", "Pets")["answers"] == 7


def test_images_of_a_project_that_was_not_made_by_adopting_are_not_fetched(project: Project, theirs: Theirs) -> None:
    samples = len(project.samples())
    assert desk.adopt(project.root, "Pets")["tasks"] == 6
    assert (theirs.web.asked, len(project.samples())) == ([], samples)


def test_adopting_where_no_image_can_be_had_names_the_reason_and_leaves_nothing(theirs: Theirs, tmp_path: Path) -> None:
    theirs.web.status = 503
    with pytest.raises(DataError, match=r"none of the 6 images of project 'Pets' can be had: .*\(status 503\)"):
        desk.adopt(tmp_path / "p", "Pets")
    assert not (tmp_path / "p").exists()
    theirs.asked = []
    with pytest.raises(DataError, match="no task of project 'Pets' has an image in 'picture'"):
        desk.adopt(tmp_path / "p", "Pets")


def test_images_that_are_gone_are_not_sent_to_people(project: Project) -> None:
    asked = [s for s in project.samples() if s.split == "train"][:3]
    project.ledger.add_queue([QueueEntry(f"k{n}", s.id, 1, n, "shown", "c1", "c2", "why") for n, s in enumerate(asked)])
    asked[1].file.unlink()

    class Sent:
        keys: tuple[str, ...] = ()

        def send(self, entries: Sequence[QueueEntry], files: Mapping[str, Path], progress: object = None) -> None:
            assert all(files[e.sample_id].is_file() for e in entries)
            self.keys = tuple(e.key for e in entries)

    sent = Sent()
    Asking(project.paths, project.settings, project.ledger, print)._send(sent, 1, None)  # type: ignore[arg-type]
    assert sent.keys == ("k0", "k2")


def test_commands_say_no_more_than_they_did(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(*arguments: str) -> str:
        done = CliRunner().invoke(curate, [arguments[0], str(project.root), *arguments[1:]])
        assert done.exit_code == 0, done.output
        return done.output

    assert says("sync") == "Iteration 1 has not begun, so nobody is asked anything yet.\n"
    assert says("label", "--stop") == "The project's own Label Studio is stopped.\n"
    assert json.loads(says("label", "--stop", "--json")) == {"stopped": True}
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://labels:8080")
    assert says("label", "--stop").endswith("is stopped; the one at http://labels:8080 is left alone.\n")


def test_a_command_that_is_told_can_be_pasted(tmp_path: Path) -> None:
    draw(tmp_path / "images" / "left", 4)
    draw(tmp_path / "images" / "right", 4, seed=1)
    root = tmp_path / "solar cells"
    done = CliRunner().invoke(curate, ["init", str(root), "--images", str(tmp_path / "images")])
    assert done.exit_code == 0, done.output
    assert f"Next: `curate run '{root}'`, or `curate flag '{root}' --out flags.csv`" in done.output
