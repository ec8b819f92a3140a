"""Answers from a file: which rows count, and what is wrong with a row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from curation.errors import DataError
from curation.records import Classes, QueueEntry, Verdict
from labeling.replay import ReplayAnnotator

CLASSES = Classes(("c1", "c2"), ("cat", "dog"))
PATHS = {"s1": ("a/1.png", "b/1.png"), "s2": ("a/2.png",)}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(sample: str, *, opinions: int = 1) -> QueueEntry:
    return QueueEntry(f"key-{sample}", sample, 3, 0, "blind", "c1", "c2", "", opinions=opinions)


def annotator(tmp_path: Path, text: str) -> ReplayAnnotator:
    file = tmp_path / "answers.csv"
    file.write_text(text, encoding="utf-8")
    return ReplayAnnotator(file, classes=CLASSES, paths=PATHS, now=NOW)


def said(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(v.person, v.answer) for v in verdicts]


def test_an_answer_carries_all_that_the_ledger_wants(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label,annotator,seconds\na/1.png,dog,ann,2.5\n")
    assert people.collect([entry("s1"), entry("s2")]) == [
        Verdict("s1", "c2", "ann", NOW, "key-s1", "replay:key-s1:ann", "blind", 3, 2.5)
    ]


def test_as_many_people_answer_as_were_asked_in_file_order(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label,annotator\na/2.png,dog,zoe\na/2.png,cat,ann\na/2.png,bad image,bob\n")
    assert said(people.collect([entry("s2", opinions=2)])) == [("zoe", "c2"), ("ann", "c1")]


def test_a_name_of_before_counts_for_the_class_that_had_it(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text("path,label\na/1.png,hound\n", encoding="utf-8")
    people = ReplayAnnotator(file, classes=replace(CLASSES, former={"hound": "c2"}), paths=PATHS, now=NOW)
    assert said(people.collect([entry("s1")])) == [("person 1", "c2")]


def test_rows_without_annotator_are_several_people(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label\na/2.png,dog\na/2.png,ambiguous\n")
    assert said(people.collect([entry("s2", opinions=5)])) == [("person 1", "c2"), ("person 2", "ambiguous")]


def test_a_second_row_of_a_person_replaces_the_first(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label,annotator\na/2.png,dog,ann\na/2.png,cat,bob\n./a/2.png,cat,ann\n")
    assert said(people.collect([entry("s2", opinions=2)])) == [("ann", "c1"), ("bob", "c1")]


def test_every_path_of_a_sample_can_answer_but_a_person_once(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label,annotator\nb/1.png,dog,ann\na/1.png,cat,ann\nb/1.png,dog,bob\n")
    assert said(people.collect([entry("s1", opinions=3)])) == [("ann", "c1"), ("bob", "c2")]


def test_paths_fit_in_every_spelling(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label\n.\\a\\2.png,dog\n")
    assert said(people.collect([entry("s2")])) == [("person 1", "c2")]


def test_columns_may_stand_in_any_order_with_others_between_and_a_byte_order_mark(tmp_path: Path) -> None:
    people = annotator(tmp_path, "\ufefflabel, note, path\n\ndog, 'x', a/2.png\n")
    assert said(people.collect([entry("s2")])) == [("person 1", "c2")]


def test_rows_of_other_images_are_left_alone(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label\nelsewhere.png,dog\na/2.png,cat\n")
    assert said(people.collect([entry("s1"), entry("s2")])) == [("person 1", "c1")]


def test_nobody_waits_for_what_the_file_does_not_say(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label\na/2.png,cat\n")
    assert people.waiting([entry("s1"), entry("s2", opinions=3)]) == 0


def test_answers_are_dated_by_the_file_where_no_time_is_given(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text("path,label\na/2.png,cat\n", encoding="utf-8")
    people = ReplayAnnotator(file, classes=CLASSES, paths=PATHS)
    assert people.collect([entry("s2")])[0].at.timestamp() == pytest.approx(file.stat().st_mtime, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,class\na,b\n", r"answers\.csv: the first row must name the columns path,label"),
        ("", r"answers\.csv: the first row must name"),
        ("path,label\na/2.png,bird\n", r"answers\.csv, row 2: 'bird' is no class .* 'bad image' or 'other'$"),
        ("path,label\na/2.png,\n", r"row 2: '' is no class"),
        ("path,label\n,dog\n", r"row 2: path is empty"),
        ("path,label\na/2.png\n", r"row 2: it must have 2 fields"),
        ("path,label\na/2.png,dog,x\n", r"row 2: it must have 2 fields"),
        ("path,label,seconds\na/2.png,dog,\na/2.png,dog,soon\n", r"row 3: seconds must be a number, 0 or more"),
        ("path,label,seconds\na/2.png,dog,-1\n", r"row 2: seconds must be a number"),
        ("path,label,seconds\na/2.png,dog,nan\n", r"row 2: seconds must be a number"),
        ("path,label\nx.png,dog\n", r"no path of it is an image of this project.*'a/1\.png', not 'x\.png'"),
        ('path,label\n"a/2.png,dog\n', r"can't be read as CSV"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_row(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        annotator(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; name the file in it"):
        ReplayAnnotator(tmp_path, classes=CLASSES, paths=PATHS)
    with pytest.raises(DataError, match=r"none\.csv is missing"):
        ReplayAnnotator(tmp_path / "none.csv", classes=CLASSES, paths=PATHS)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_bytes(b"path,label\n\xff\xfe,dog\n")
    with pytest.raises(DataError, match=r"answers\.csv can't be read as CSV in UTF-8"):
        ReplayAnnotator(file, classes=CLASSES, paths=PATHS)


def test_who_has_answered_an_image_before_is_not_asked_about_it_again(tmp_path: Path) -> None:
    people = annotator(tmp_path, "path,label,annotator\na/2.png,dog,ann\na/2.png,cat,bob\n")
    first, again = entry("s2"), QueueEntry("again", "s2", 4, 0, "blind", "c1", "c2", "")
    known = people.collect([first])
    assert said(people.collect([first, again], known)) == [("ann", "c2"), ("bob", "c1")]
