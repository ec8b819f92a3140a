"""Folders and tables become samples; what is wrong is named by file and row."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from curation import dataset
from curation.errors import DataError
from curation.records import Split
from curation.tables import csv_text


def paint(file: Path, shade: int) -> Path:
    """A small image whose content depends on ``shade`` alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(shade).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(20):
        paint(tmp_path / "images" / f"{number:02d}.png", number)
    return tmp_path / "images"


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """A class folder of photos, one of them of a format that is not read, and one that is called as if it were."""
    for number in range(2):
        paint(tmp_path / "phone" / "cat" / f"{number}.png", number)
    (tmp_path / "phone" / "cat" / "IMG_2.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)
    paint(tmp_path / "phone" / "cat" / "3.png", 3).rename(tmp_path / "phone" / "cat" / "IMG_3.heic")
    return tmp_path / "phone"


def table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "labels.csv"
    file.write_text(text, encoding="utf-8")
    return file


def gathered(rows: list[dataset.Row], **given: object) -> list[dataset.Gathered]:
    options = {"known_splits": {}, "seed": 0, "holdout_share": 0.2} | given
    return dataset.gather(dataset.inspect_rows(rows), **options)  # type: ignore[arg-type]


def test_class_folders_give_labels_and_loose_images_go_to_the_pool(tmp_path: Path) -> None:
    paint(tmp_path / "Katze 猫" / "a.png", 1)
    paint(tmp_path / "dog" / "deep" / "b.png", 2)
    paint(tmp_path / "loose.png", 3)
    (tmp_path / "notes.txt").write_text("not an image")
    rows = dataset.rows_of_folder(tmp_path)
    assert {(r.path, r.label, r.split) for r in rows} == {
        ("Katze 猫/a.png", "Katze 猫", None), ("dog/deep/b.png", "dog", None), ("loose.png", None, "pool"),
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".avif", ".jfif", ".jpe", ".JP2", ".j2k", ".pbm", ".pnm"])
def test_a_folder_is_read_by_every_name_that_its_formats_have(tmp_path: Path, suffix: str) -> None:
    Image.new("1" if suffix == ".pbm" else "RGB", (40, 30)).save(tmp_path / f"a{suffix}")
    found = dataset.inspect_rows(dataset.rows_of_folder(tmp_path))
    assert [row.path for row, _ in found.rows] == [f"a{suffix}"]


def test_numbers_with_underscores_stay_text(tmp_path: Path, images: Path) -> None:
    text = "path,label,camera,lot\n00.png,cat,1_10,1\n01.png,cat,11_0,\n02.png,cat,2,2.5\n"
    rows = dataset.rows_of_table(table(tmp_path, text), images)
    assert [dict(row.metadata) for row in rows] == [
        {"camera": "1_10", "lot": 1.0}, {"camera": "11_0", "lot": None}, {"camera": "2", "lot": 2.5},
    ]  # fmt: skip


def test_numbers_that_begin_with_a_zero_are_names(tmp_path: Path, images: Path) -> None:
    text = "path,label,lot,share\n00.png,cat,007,0.5\n01.png,dog,12,0\n"
    rows = dataset.rows_of_table(table(tmp_path, text), images)
    assert [dict(row.metadata) for row in rows] == [{"lot": "007", "share": 0.5}, {"lot": "12", "share": 0.0}]


def test_space_around_a_class_folders_name_is_none_of_the_class(tmp_path: Path) -> None:
    for folder in ("dog ", "dog"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "a.png")
    rows = dataset.rows_of_folder(tmp_path)
    assert {(row.path, row.label) for row in rows} == {("dog /a.png", "dog"), ("dog/a.png", "dog")}


def test_a_table_brings_splits_groups_and_typed_metadata(tmp_path: Path, images: Path) -> None:
    text = "path,label,split,group,wafer,grade\n00.png,1,train,m1,poly,0.5\n01.png,2,test,m2,,\n02.png,,pool,,mono,1\n"
    first, second, third = dataset.rows_of_table(table(tmp_path, text), images)
    assert (first.label, first.split, first.group, dict(first.metadata)) == (
        "1",
        "train",
        "m1",
        {"wafer": "poly", "grade": 0.5},
    )
    assert (second.split, dict(second.metadata)) == ("holdout", {"wafer": None, "grade": None})
    assert (third.label, third.split) == (None, "pool")


def test_a_parquet_table_reads_the_same(tmp_path: Path, images: Path) -> None:
    file = tmp_path / "labels.parquet"
    pd.DataFrame({"path": ["00.png", "01.png"], "label": [3, 4], "lux": [1.5, None]}).to_parquet(file)
    first, second = dataset.rows_of_table(file, images)
    assert (first.label, dict(first.metadata), dict(second.metadata)) == ("3", {"lux": 1.5}, {"lux": None})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "labels.csv is empty"),
        (b"path,label\n", "has a header but no rows"),
        (b"file,label\n00.png,cat\n", "has no column 'path'; it has file, label"),
        (b"path,klass\n00.png,cat\n", "has no column 'label'; it has path, klass"),
        (b"path,label\n,cat\n", "row 2: the path is empty"),
        (b"path,label\n00.png,cat,dog\n", "row 2: 3 cells where the header has 2"),
        (b"path,label,split\n00.png,cat,tarin\n", "row 2: split 'tarin' is none of train, holdout, pool"),
        (b"path,label\n00.png,caf\xe9\n", "row 2: not UTF-8 text"),
        (b"path,label,label\n00.png,a,b\n", "names a column twice"),
    ],
)
def test_a_bad_table_is_named_with_its_row(tmp_path: Path, images: Path, content: bytes, said: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        dataset.rows_of_table(file, images)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        dataset.rows_of_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        dataset.rows_of_folder(tmp_path / "empty")


def test_a_folder_tells_of_images_whose_format_is_not_read(phone: Path) -> None:
    found = dataset.inspect_rows(dataset.rows_of_folder(phone))
    assert [row.path for row, _ in found.rows] == ["cat/0.png", "cat/1.png", "cat/IMG_3.heic"]
    assert [(a.path, "is not an image of a known format" in a.reason) for a in found.set_aside] == [
        ("cat/IMG_2.HEIC", True)
    ]


def test_one_bad_image_is_set_aside_and_all_bad_is_an_error(tmp_path: Path, images: Path) -> None:
    (images / "text.png").write_text("no image")
    rows = dataset.rows_of_table(table(tmp_path, "path,label\n00.png,cat\ntext.png,dog\ngone.png,dog\n"), images)
    found = dataset.inspect_rows(rows)
    assert [a.where for a in found.set_aside] == ["labels.csv row 3", "labels.csv row 4"]
    with pytest.raises(DataError, match=r"none of the 2 images can be used; the first, labels\.csv row 3"):
        dataset.inspect_rows(rows[1:])


def test_the_same_picture_is_one_sample_and_two_labels_are_noticed(tmp_path: Path, images: Path) -> None:
    paint(images / "copy.png", 0)
    rows = dataset.rows_of_table(table(tmp_path, "path,label\n00.png,cat\ncopy.png,dog\n01.png,dog\n"), images)
    first, _ = gathered(rows, draw_holdout=False)
    assert (len(first.rows), first.label) == (2, "cat")
    assert "has the labels 'cat' (1), 'dog' (1); 'cat' is taken, and it is flagged" in first.notes[0]


def test_labels_that_differ_in_rows_of_one_path_are_noticed_and_not_said_to_be_flagged(
    tmp_path: Path, images: Path
) -> None:
    rows = dataset.rows_of_table(table(tmp_path, "path,label\n00.png,cat\n00.png,dog\n01.png,dog\n"), images)
    first, _ = gathered(rows, draw_holdout=False)
    assert first.notes == ("00.png: the same picture has the labels 'cat' (1), 'dog' (1); 'cat' is taken",)


def test_a_picture_in_train_and_holdout_stays_in_the_holdout(tmp_path: Path, images: Path) -> None:
    paint(images / "copy.png", 0)
    text = "path,label,split\n00.png,cat,train\ncopy.png,cat,holdout\n01.png,dog,train\n"
    first, _ = gathered(dataset.rows_of_table(table(tmp_path, text), images))
    assert (first.split, "the holdout keeps it" in first.notes[0]) == ("holdout", True)


def test_the_drawn_holdout_is_stratified_seeded_and_does_not_depend_on_row_order(images: Path) -> None:
    rows = [dataset.Row(f"{n:02d}.png", images, "cat" if n < 15 else "dog", None, None, {}, str(n)) for n in range(20)]
    drawn = gathered(rows)
    assert Counter((g.label, g.split) for g in drawn) == {
        ("cat", "train"): 12, ("cat", "holdout"): 3, ("dog", "train"): 4, ("dog", "holdout"): 1,
    }  # fmt: skip
    holdout = {g.id for g in drawn if g.split == "holdout"}
    assert {g.id for g in gathered(rows[::-1]) if g.split == "holdout"} == holdout
    assert {g.id for g in gathered(rows, seed=1) if g.split == "holdout"} != holdout


def test_a_group_is_never_divided_between_train_and_holdout(images: Path) -> None:
    rows = [
        dataset.Row(f"{n:02d}.png", images, "cat" if n % 2 else "dog", None, f"m{n // 5}", {}, str(n))
        for n in range(20)
    ]
    splits: dict[str | None, set[str]] = {}
    for image in gathered(rows, holdout_share=0.3):
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {"holdout"} in splits.values()


@pytest.mark.parametrize(
    ("splits", "groups", "said"),
    [
        (["holdout"] * 4, [None] * 4, "none of the 4 labeled images is in train; give some the split 'train'"),
        (["holdout", "pool"] * 2, [None] * 4, "none of the 4 labeled images is in train"),
        (["train", "holdout"] * 2, [None] * 4, "all 2 labeled images of train are 'cat'; at least two classes"),
        ([None] * 4, ["g"] * 4, "all 4 labeled images of train are of the group 'g', .*; give groups that divide them"),
    ],
)
def test_what_train_can_not_be_learned_from_is_refused(
    images: Path, splits: list[Split | None], groups: list[str | None], said: str
) -> None:
    rows = [
        dataset.Row(f"{n:02d}.png", images, ["cat", "dog"][n % 2], splits[n], groups[n], {}, str(n)) for n in range(4)
    ]
    with pytest.raises(DataError, match=said):
        dataset.check_classes(gathered(rows))


@pytest.mark.parametrize(("split", "told"), [(None, False), ("train", True)])
def test_an_import_without_a_holdout_is_told(images: Path, split: Split | None, told: bool) -> None:
    rows = [dataset.Row(f"{n:02d}.png", images, ["cat", "dog"][n % 2], split, None, {}, str(n)) for n in range(20)]
    note = dataset.without_holdout(gathered(rows))
    assert ("no labeled image is in the holdout" in note) == told


@pytest.mark.parametrize("named", [False, True])
def test_pool_images_of_a_group_in_the_holdout_go_there_without_a_label(images: Path, named: bool) -> None:
    rows = [
        dataset.Row(f"{n:02d}.png", images, ("cat" if n % 2 else "dog") if n % 5 else None,
                    ("holdout" if n < 5 else "train") if named and n % 5 else None, f"m{n // 5}", {}, str(n))
        for n in range(20)
    ]  # fmt: skip
    rows[10] = replace(rows[10], label="cat", split="pool")
    found = gathered(rows, holdout_share=0.3)
    held = {image.group for image in found if image.split == "holdout"}
    assert held
    sent = [image for image in found if image.rows[0].path in ("00.png", "05.png", "10.png", "15.png")]
    assert [image.split for image in sent] == ["holdout" if image.group in held else "pool" for image in sent]
    for image in sent:
        if image.group in held:
            assert image.label is None
            assert f"its group '{image.group}' is in the holdout; it is not asked about" in image.notes[0]


def test_known_pool_images_stay_what_they_are(images: Path) -> None:
    rows = [dataset.Row(f"{n:02d}.png", images, None, "pool", "m", {}, str(n)) for n in range(2)]
    known = gathered(rows[:1])[0].id
    held = dataset.Row("02.png", images, "cat", "holdout", "m", {}, "2")
    assert [g.split for g in gathered([*rows, held], known_splits={known: "pool"})] == ["pool", "holdout", "holdout"]


def test_known_samples_keep_their_split(images: Path) -> None:
    rows = [dataset.Row(f"{n:02d}.png", images, "cat", None, None, {}, str(n)) for n in range(4)]
    ids = [g.id for g in gathered(rows, draw_holdout=False)]
    again = gathered(rows, known_splits={ids[0]: "holdout"}, draw_holdout=False)
    assert [g.split for g in again] == ["holdout", "train", "train", "train"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["cat"] * 4, "all 4 labeled images are 'cat'; at least two classes are needed"),
        (["cat", "cat", "cat", "dog"], "class 'dog' has a single image"),
        ([None] * 4, "no image has a label"),
    ],
)
def test_labels_that_can_not_be_trained_on_are_refused(images: Path, labels: list[str | None], said: str) -> None:
    rows = [dataset.Row(f"{n:02d}.png", images, label, None, None, {}, str(n)) for n, label in enumerate(labels)]
    with pytest.raises(DataError, match=said):
        dataset.check_classes(gathered(rows))


def test_a_class_that_can_not_be_shown_is_refused_even_where_no_picture_is_taken_for_it(images: Path) -> None:
    paint(images / "copy.png", 0)
    labels = {"00.png": "cat", "01.png": "cat", "02.png": "dog", "03.png": "dog", "copy.png": "do\ng"}
    rows = [dataset.Row(path, images, label, None, None, {}, path) for path, label in labels.items()]
    with pytest.raises(DataError, match="can't be shown to people"):
        dataset.check_classes(gathered(rows))


def test_measurements_in_place_of_classes_are_refused(tmp_path: Path) -> None:
    rows = []
    for n in range(60):
        paint(tmp_path / f"{n}.png", n)
        rows.append(dataset.Row(f"{n}.png", tmp_path, str(n / 7), None, None, {}, str(n)))
    with pytest.raises(DataError, match="look like measurements"):
        dataset.check_classes(gathered(rows))


def test_a_table_that_spreadsheets_can_open_safely_reads_back_the_same(tmp_path: Path) -> None:
    paths = ["=1.png", "'=1.png", "''=1.png", "'a.png", "-5", "'-5"]
    text = csv_text(pd.DataFrame({"path": paths, "-x": ["0.5"] * 6}))
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    header, rows = dataset.read_table(tmp_path / "table.csv")
    assert header == ["path", "-x"]
    assert [record["path"] for _, record in rows] == paths
