"""Predictions of somebody's own model are read rightly, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from curation.errors import DataError
from curation.predictions import read_predictions
from curation.records import Classes

CLASSES = Classes(("c1", "c2"), ("cat", "dog"))
PATHS = {"s1": ("a.png",), "s2": ("b.png", "copy of b.png"), "s3": ("c.png",)}
LABELS = {"s1": "c1", "s2": "c2", "s3": "c2"}


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_columns_are_found_by_name_and_rows_by_path(tmp_path: Path) -> None:
    text = "dog,path,fold,cat\n0.9,copy of b.png,1,0.1\n0.25,a.png,2,0.75\n0.5,elsewhere.png,1,0.5\n"
    found = read_predictions(write(tmp_path, text), CLASSES, PATHS, LABELS)
    assert found.sample_ids == ("s1", "s2")
    assert found.class_ids == CLASSES.ids
    assert np.allclose(found.probabilities, [[0.75, 0.25], [0.1, 0.9]])
    assert found.folds.tolist() == [-1, -1]


def test_parquet_serves_and_rounded_rows_are_scaled(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["c.png"], "cat": [0.33], "dog": [0.66]})
    table.to_parquet(tmp_path / "mine.parquet")
    found = read_predictions(tmp_path / "mine.parquet", CLASSES, PATHS, LABELS)
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_a_class_called_path_is_told_to_take_another_name(tmp_path: Path) -> None:
    classes = Classes(("c1", "c2"), ("cat", "path"))
    file = write(tmp_path, "path,cat\na.png,1\nb.png,1\n")
    with pytest.raises(DataError, match="so the class 'path' has none; give the class another name"):
        read_predictions(file, classes, PATHS, LABELS)
    assert read_predictions(file, classes, PATHS, {"s1": "c1"}).probabilities.tolist() == [[1, 0]]


def test_arithmetic_in_single_precision_is_no_mistake(tmp_path: Path) -> None:
    text = "path,cat,dog\na.png,1.0000001,-1e-7\nb.png,0.25,0.75\n"
    found = read_predictions(write(tmp_path, text), CLASSES, PATHS, LABELS)
    assert found.probabilities[found.sample_ids.index("s1")].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("path,cat\nb.png,1\n", "no column 'dog'"),
        ("file,cat,dog\na.png,1,0\n", "no column 'path'"),
        ("path,cat,dog\na.png,2.5,-1.5\n", "row 2: 2.5 for 'cat' is no probability"),
        ("path,cat,dog\na.png,1.001,0\n", "row 2: 1.001 for 'cat' is no probability"),
        ("path,cat,dog\na.png,nan,0\n", "row 2: nan for 'cat' is no probability"),
        ("path,cat,dog\na.png,much,0\n", "row 2: 'much' for 'cat' is no probability"),
        ("path,cat,dog\na.png,0.9,0.9\n", r"row 2: the probabilities add up to 1\.8"),
        ("path,cat,dog\na.png,1,0\na.png,0,1\n", "row 3: 'a.png' has a row already"),
        ("path,cat,dog\n/home/me/a.png,1,0\n", "for instance 'a.png', not '/home/me/a.png'"),
        ("path,cat,dog\n", "no path of it is a labeled image"),
        ("path,cat,dog\nnew/a.png,0.5,0.5\n", "for instance 'a.png', not 'new/a.png'"),
    ],
)
def test_what_can_not_be_used_is_refused_in_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        read_predictions(write(tmp_path, text), CLASSES, PATHS, LABELS)
    assert "mine.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.csv does not exist"):
        read_predictions(tmp_path / "nothing.csv", CLASSES, PATHS, LABELS)


def test_a_path_that_two_images_have_is_refused_and_other_names_serve(tmp_path: Path) -> None:
    names = {"s1": ("a.png", "/old/a.png", "s1"), "s2": ("a.png", "/new/a.png", "s2"), "pool": ("c.png", "/new/c.png")}
    with pytest.raises(DataError, match=r"2 images have the path 'a\.png'.*'/old/a\.png' and '/new/a\.png'"):
        read_predictions(write(tmp_path, "path,cat,dog\na.png,1,0\n"), CLASSES, names, {"s1": "c1"})
    text = "path,cat,dog\n/new/a.png,0.2,0.8\ns1,0.9,0.1\nc.png,9,9\n"
    found = read_predictions(write(tmp_path, text), CLASSES, names, {"s1": "c1", "s2": "c2"})
    assert found.sample_ids == ("s1", "s2")
    assert np.allclose(found.probabilities, [[0.9, 0.1], [0.2, 0.8]])


def test_rows_of_an_image_that_has_two_paths_count_as_their_mean(tmp_path: Path) -> None:
    text = "path,cat,dog\nb.png,0.2,0.8\ncopy of b.png,0.4,0.6\n"
    assert np.allclose(read_predictions(write(tmp_path, text), CLASSES, PATHS, LABELS).probabilities, [[0.3, 0.7]])


def test_only_classes_that_labels_name_need_a_column_and_merged_ones_count_for_what_they_are_now(
    tmp_path: Path,
) -> None:
    """``fox`` was merged into ``dog``, nothing is a ``wolf`` yet."""
    classes = Classes(("c1", "c2", "c3", "c4"), ("cat", "dog", "fox", "wolf"))
    two = read_predictions(write(tmp_path, "path,cat,dog\na.png,0.7,0.3\n"), classes, PATHS, LABELS, {"c3": "c2"})
    assert two.class_ids == classes.ids
    assert np.allclose(two.probabilities, [[0.7, 0.3, 0, 0]])
    text = "path,cat,dog,fox\na.png,0.7,0.1,0.2\n"
    three = read_predictions(write(tmp_path, text), classes, PATHS, LABELS, {"c3": "c2"})
    assert np.allclose(three.probabilities, [[0.7, 0.3, 0, 0]])
    with pytest.raises(DataError, match="no column 'dog'; it needs 'path' and one column a class: cat, dog, wolf"):
        read_predictions(write(tmp_path, "path,cat\nb.png,1\n"), classes, PATHS, LABELS, {"c3": "c2"})


def test_rounded_probabilities_of_many_classes_are_taken(tmp_path: Path) -> None:
    """Of 400 classes 160 share 0.064, which three decimals round to nothing."""
    names = tuple(f"k{n}" for n in range(400))
    table = pd.DataFrame([[0.936] + [0.0] * 399], columns=list(names))
    table.insert(0, "path", ["a.png"])
    table.to_csv(tmp_path / "many.csv", index=False)
    classes = Classes(tuple(f"c{n}" for n in range(400)), names)
    found = read_predictions(tmp_path / "many.csv", classes, PATHS, {"s1": "c0"})
    assert found.probabilities[0, 0] == pytest.approx(1)


def test_rows_of_other_images_are_not_looked_at(tmp_path: Path) -> None:
    text = "path,cat,dog\na.png,0.7,0.3\nelsewhere.png,0.9,0.9\n,x,\n,,\n"
    assert read_predictions(write(tmp_path, text), CLASSES, PATHS, LABELS).sample_ids == ("s1",)
