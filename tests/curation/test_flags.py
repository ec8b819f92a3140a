"""The table of flags: which rows, in which order, with which words."""

from __future__ import annotations

from curation.flags import COLUMNS, flag_table
from curation.ledger import NewPath, StoredSample
from curation.records import Classes, CurrentLabel, Issue

CLASSES = Classes(("c1", "c2"), ("cat", "dog"))


def stored(sample_id: str, *paths: str) -> StoredSample:
    return StoredSample(sample_id, "train", None, 8, 8, tuple(NewPath(sample_id, p, "", None, {}) for p in paths))


def test_every_path_has_its_row_worst_first_ties_by_path() -> None:
    samples = [stored("a", "b.jpg", "a.jpg", "b.jpg"), stored("b", "c.jpg"), stored("never judged", "d.jpg")]
    labels = {s.id: CurrentLabel(s.id, "c1", False, 1) for s in samples}
    issue = Issue("b", "label", 0.1, "looks like a dog", given="c1", suggested="c2")
    table = flag_table(samples, labels, {"a": 0.9, "b": 0.1}, [issue], CLASSES)
    assert tuple(table.columns) == COLUMNS
    assert table.to_numpy().tolist() == [
        ["c.jpg", "cat", 0.1, "dog", "true", "looks like a dog"],
        ["a.jpg", "cat", 0.9, "", "false", ""],
        ["b.jpg", "cat", 0.9, "", "false", ""],
    ]


def test_two_labels_of_one_picture_are_reviewed_an_outlier_is_only_told() -> None:
    samples = [stored("a", "a.jpg"), stored("b", "b.jpg")]
    labels = {s.id: CurrentLabel(s.id, "c1", False, 1) for s in samples}
    issues = [
        Issue("a", "outlier", 0.2, "unlike every other image"),
        Issue("b", "label_conflict", 0.5, "two labels", given="c1", suggested="c2"),
    ]
    table = flag_table(samples, labels, {"a": 0.4, "b": 0.5}, issues, CLASSES)
    assert table[["suggested_label", "issue", "reason"]].to_numpy().tolist() == [
        ["", "false", "unlike every other image"],
        ["dog", "true", "two labels"],
    ]
