"""Batches go out as files and answers come back, of our own tasks and of projects that somebody made by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.errors import DataError
from curation.records import BAD_IMAGE, Classes, Mode, QueueEntry, Verdict
from labeling.exchange import FileAnnotator, by_file_name, read_answers, sample_at, write_batch
from labeling.screen import read_texts
from labeling.tasks import choice_result
from tests.contracts.test_annotators import draw

CLASSES = Classes(("c1", "c2"), ("cat", "=dog"))
PATHS = {"s1": ("a/1.png",), "s2": ("a/2.png", "b/two.png"), "s3": ("c/2.png",)}


def entry(key: str, mode: Mode = "shown", *, opinions: int = 1) -> QueueEntry:
    return QueueEntry(key, f"s{key[-1]}", 2, int(key[-1]), mode, "c2", "c1", "looks like a cat", opinions=opinions)


ENTRIES = [entry("k1"), entry("k2", "blind"), entry("k3", "control")]


def export(tmp_path: Path, *tasks: dict[str, Any]) -> Path:
    file = tmp_path / "export.json"
    file.write_text(json.dumps(list(tasks)), encoding="utf-8")
    return file


def annotation(result: list[dict[str, Any]], number: int = 5, **more: Any) -> dict[str, Any]:
    who = {"id": 7, "email": "ann@example.com"}
    moment = "2026-01-01T10:00:00Z"
    return {"id": number, "unique_id": f"u{number}", "result": result, "completed_by": who, "updated_at": moment,
            "lead_time": 2.5} | more  # fmt: skip


def read(file: Path) -> tuple[list[Verdict], list[str]]:
    found = read_answers(file, ENTRIES, CLASSES, PATHS, iteration=1)
    return list(found.verdicts), list(found.set_aside)


def test_a_batch_tells_of_blind_tasks_nothing_but_the_image(tmp_path: Path) -> None:
    files = draw(tmp_path / "drawn", ENTRIES)
    written = write_batch(tmp_path / "out", ENTRIES, files, CLASSES, texts=read_texts())
    assert {f.name for f in written} == {
        "tasks-shown.json", "screen-shown.xml", "tasks-blind.json", "screen-blind.xml", "batch.csv",
    }  # fmt: skip
    blind = json.loads((tmp_path / "out" / "tasks-blind.json").read_text())
    assert [set(t["data"]) for t in blind] == [{"key", "image"}] * 2
    for task in [*blind, *json.loads((tmp_path / "out" / "tasks-shown.json").read_text())]:
        assert (tmp_path / "out" / task["data"]["image"]).is_file()
    with (tmp_path / "out" / "batch.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert [(r["key"], r["stream"], r["given_label"], r["reason"], r["label"]) for r in rows] == [
        ("k1", "shown", "'=dog", "looks like a cat", ""), ("k2", "blind", "", "", ""), ("k3", "blind", "", "", ""),
    ]  # fmt: skip
    assert not list((tmp_path / "out" / "images").rglob("*s1*"))


def test_a_filled_in_table_comes_back_as_verdicts_twice_the_same(tmp_path: Path) -> None:
    file = tmp_path / "batch.csv"
    file.write_text("key,label,annotator,seconds\nk1,cat,ann,2.5\nk2,,ann,\nk3,bad image,,\nk9,cat,,\nk2,cow,ann,\n")
    found, aside = read(file)
    assert [(v.key, v.sample_id, v.answer, v.person, v.seconds, v.mode) for v in found] == [
        ("k1", "s1", "c1", "ann", 2.5, "shown"), ("k3", "s3", BAD_IMAGE, "somebody", None, "control"),
    ]  # fmt: skip
    assert ["row 5: key 'k9'" in aside[0], "row 6: 'cow' is no class" in aside[1]] == [True, True]
    assert aside[1].endswith("use one of 'cat', '=dog', 'ambiguous', 'bad image' or 'other'")
    assert read(file) == (found, aside)


@pytest.mark.parametrize("seconds", ["soon", "nan", "inf", "1e400", "-500"])
def test_a_row_with_a_time_that_makes_no_sense_is_set_aside_and_the_others_count(tmp_path: Path, seconds: str) -> None:
    file = tmp_path / "batch.csv"
    file.write_text(f"key,label,annotator,seconds\nk1,cat,ann,{seconds}\nk2,cat,ann,0\n")
    (found,), (reason,) = read(file)
    assert (found.key, found.seconds) == ("k2", 0.0)
    assert reason.endswith(f"row 2: seconds must be a number, 0 or more, got '{seconds}'")


def test_a_name_that_a_spreadsheet_would_take_for_a_formula_comes_back_from_the_cell_that_shows_it(
    tmp_path: Path,
) -> None:
    classes = Classes(("c1", "c2"), ("1", "-1"))
    write_batch(tmp_path, ENTRIES[:1], draw(tmp_path / "drawn", ENTRIES), classes, texts=read_texts())
    with (tmp_path / "batch.csv").open() as text:
        ((row),) = csv.DictReader(text)
    assert row["given_label"] == "'-1"
    for said, answer in ((row["given_label"], "c2"), ("-1", "c2"), (row["suggestion"], "c1"), ("'1", None)):
        file = tmp_path / "filled.csv"
        file.write_text(f"key,label\nk1,{said}\n")
        found = read_answers(file, ENTRIES, classes, PATHS, iteration=1)
        assert [v.answer for v in found.verdicts] == ([answer] if answer else []), said


def test_a_name_of_before_counts_for_the_class_that_had_it(tmp_path: Path) -> None:
    file = tmp_path / "batch.csv"
    file.write_text("key,label,annotator,seconds\nk1,kitten,ann,2.5\n")
    classes = replace(CLASSES, former={"kitten": "c1"})
    assert [v.answer for v in read_answers(file, ENTRIES, classes, PATHS, iteration=1).verdicts] == ["c1"]


def test_an_export_of_our_tasks_is_known_by_their_keys(tmp_path: Path) -> None:
    file = export(
        tmp_path, {"id": 1, "project": 3, "data": {"key": "k2"}, "annotations": [annotation(choice_result("c2"))]}
    )
    ((found,), aside) = read(file)
    assert (found.key, found.answer, found.person, found.seconds) == ("k2", "c2", "ann@example.com", 2.5)
    assert (found.source, aside) == ("ls:export-u5:annotation:5", [])


def named(choice: str) -> list[dict[str, Any]]:
    return [{"from_name": "kind", "to_name": "img", "type": "choices", "value": {"choices": [choice]}}]


@pytest.mark.parametrize(
    "address", ["/data/upload/3/0a1b2c3d-1.png", "/data/local-files/?d=photos/1.png", "s3://bucket/a/1.png"]
)
def test_a_project_made_by_hand_is_adopted_by_its_images_names(tmp_path: Path, address: str) -> None:
    file = export(tmp_path, {"id": 1, "data": {"picture": address}, "annotations": [annotation(named("cat"))]})
    ((found,), aside) = read(file)
    assert (found.sample_id, found.answer, found.mode, found.iteration, aside) == ("s1", "c1", "blind", 1, [])


def test_ids_are_only_read_in_answers_to_our_own_tasks(tmp_path: Path) -> None:
    classes = Classes(("c1", "c2"), ("c2", "cat"))
    said = [annotation(choice_result("c2"))]
    file = export(
        tmp_path,
        {"id": 1, "data": {"key": "k1"}, "annotations": said},
        {"id": 2, "data": {"i": "/a/2.png"}, "annotations": said},
        {"id": 3, "data": {"i": "/c/2.png"}, "annotations": [annotation(choice_result("c1"))]},
    )
    found = read_answers(file, ENTRIES, classes, PATHS, iteration=1)
    assert [(v.sample_id, classes.name(v.answer)) for v in found.verdicts] == [("s1", "cat"), ("s2", "c2")]
    assert ["task 3" in reason for reason in found.set_aside] == [True]


def test_words_that_only_begin_like_an_address_hinder_no_answer(tmp_path: Path) -> None:
    fields = {"note": "https://[see the other sheet", "image": "s3://bucket/photos/cats/1.png"}
    file = export(tmp_path, {"id": 1, "data": fields, "annotations": [annotation(named("cat"))]})
    found, aside = read(file)
    assert (len(found), aside) == (1, [])


@pytest.mark.parametrize("address", ["/data/local-files/?d=dogs/run-1.png", "/x/2024-1.png", "/x/0a1b2c3-1.png"])
def test_a_name_that_ends_like_an_images_is_not_that_image(tmp_path: Path, address: str) -> None:
    """Label Studio puts eight hex digits and a dash before the name of an upload, nothing else."""
    file = export(tmp_path, {"id": 1, "data": {"i": address}, "annotations": [annotation(named("cat"))]})
    found, aside = read(file)
    assert (found, len(aside)) == ([], 1)


@pytest.mark.parametrize(
    ("address", "sample"),
    [
        ("s3://bucket/photos/cats/1.png", "s1"),
        ("/data/local-files/?d=srv/photos/dogs/1.png", "s2"),
        ("s3://dogs/1.png", "s3"),
        ("s3://ants/2.png", "s4"),
        ("s3://bucket/9f8e7d6c-2.png", "s6"),
        ("s3://bucket/bees/0a1b2c3d-2.png", "s5"),
        ("s3://bucket/horses/1.png", None),
        ("s3://bucket/0a1b2c3d-2.png", None),
    ],
)
def test_of_images_with_the_same_name_it_is_the_one_with_the_most_folders_in_common(
    address: str, sample: str | None
) -> None:
    """A whole path comes before everything; of a bucket's name the folder may be made that its images lie in."""
    paths = {
        "s1": ("cats/1.png", "/srv/2026/cats/1.png"), "s2": ("dogs/1.png",), "s3": ("1.png",),
        "s4": ("ants/2.png",), "s5": ("bees/2.png",), "s6": ("9f8e7d6c-2.png",),
    }  # fmt: skip
    assert sample_at(address, by_file_name(paths)) == sample


def test_two_images_with_the_same_path_in_their_addresses_are_told_apart_by_their_bucket_or_not_at_all(
    tmp_path: Path,
) -> None:
    addresses = ["s3://cats/1.png", "s3://dogs/1.png", "s3://dogs/1.png"]
    tasks = [{"id": n, "data": {"i": address}, "annotations": [annotation(named("cat"), n)]}
             for n, address in enumerate(addresses)]  # fmt: skip

    def found_in(paths: dict[str, tuple[str, ...]]) -> tuple[list[str], list[str]]:
        found = read_answers(export(tmp_path, *tasks), ENTRIES, CLASSES, paths, iteration=1)
        return [v.sample_id for v in found.verdicts], [a.split(": ")[1] for a in found.set_aside]

    assert found_in({"s1": ("cats/1.png",), "s2": ("dogs/1.png",)}) == (["s1", "s2", "s2"], [])
    assert found_in({"s1": ("1.png",)}) == (
        [], [f"task {n} can't be told from another by the path of its image ({a})" for n, a in enumerate(addresses)],
    )  # fmt: skip


def test_an_image_whose_name_is_of_two_samples_or_of_none_is_set_aside(tmp_path: Path) -> None:
    tasks = [{"id": n, "data": {"i": f"/x/{name}"}, "annotations": [annotation(named("cat"))]}
             for n, name in enumerate(("2.png", "9.png"))]  # fmt: skip
    found, aside = read(export(tmp_path, *tasks))
    assert found == []
    assert [a.split(": ")[1] for a in aside] == [f"task {n} is of no image of this project" for n in (0, 1)]


def test_an_answer_that_is_no_class_is_set_aside(tmp_path: Path) -> None:
    file = export(tmp_path, {"id": 1, "data": {"key": "k1"}, "annotations": [annotation(named("horse"))]})
    found, (reason,) = read(file)
    assert found == []
    assert "annotation 5 of task 1" in reason


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1]"])
def test_a_file_that_is_no_export_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "e.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"e\.json"):
        read(file)
    for file in (tmp_path, tmp_path / "folder.csv"):
        file.mkdir(exist_ok=True)
        with pytest.raises(DataError, match="is a folder; name the file in it"):
            read(file)
    with pytest.raises(DataError, match="is missing"):
        read(tmp_path / "gone.csv")


def test_what_is_still_to_come_is_known_from_the_ledger(tmp_path: Path) -> None:
    file = tmp_path / "batch.csv"
    file.write_text("key,label,annotator\nk1,cat,ann\nk1,cat,bob\n")
    said = read(file)[0]
    entries = [entry("k1", opinions=3), entry("k2")]
    people = FileAnnotator(lambda: said)
    assert (people.waiting(entries), people.collect(entries)) == (2, [])
