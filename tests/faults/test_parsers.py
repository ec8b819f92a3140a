"""Whatever is in a table, a settings file or an image, the answer is a result, or one sentence that names the file."""

from __future__ import annotations

import csv
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from faults.conftest import Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from curation.backup import restore
from curation.config import read_settings, settings_from_dict
from curation.dataset import Found, Row, check_classes, gather, inspect_rows, read_table, rows_of_table
from curation.errors import CurationError, DataError, InputError, ProjectError
from curation.images import ImageFacts, read_image
from curation.ledger import network_filesystem
from curation.predictions import read_predictions
from curation.records import Classes
from curation.runs import read_json
from curation.tables import csv_text
from labeling.replay import ReplayAnnotator

#: Cases a parser; each is drawn anew from a fixed seed, so that a run counts and finds the same.
CASES = 50
CLASSES = Classes(("c1", "c2"), ("cat", "dog"))
quick = settings(
    max_examples=CASES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

cells = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["path", "label", "split", "group", "cat", "dog", "a.png", "train", "", "nan", "0.5", "1e999", "-1",
                     "=1+1", "\0", "\n", '"', "\ufeff", "\ud7ff", "../x", "ambiguous", "\u202e"]),
)  # fmt: skip
names = st.one_of(st.just("a.png"), st.text(min_size=1, max_size=8))
labels = st.one_of(st.sampled_from(["cat", "dog", "ambiguous"]), st.text(max_size=5))
grids = st.lists(st.lists(cells, max_size=5), max_size=6)


def as_csv(grid: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(grid)
    return out.getvalue().encode("utf-8", "surrogatepass")


#: Well-formed tables of odd cells, such with a right header, and bytes of any kind.
contents = st.one_of(
    grids.map(as_csv),
    grids.map(lambda g: b"path,label\n" + as_csv([[*row, "", ""][:2] for row in g])),
    grids.map(lambda g: b"path,cat,dog\n" + as_csv([[*row, "", "", ""][:3] for row in g])),
    st.lists(st.tuples(names, labels, st.sampled_from(["", "train", "pool"])), min_size=1, max_size=4).map(
        lambda g: b"path,label,split\n" + as_csv([list(row) for row in g])
    ),
    st.lists(st.tuples(names, st.floats(0, 1)), min_size=1, max_size=4).map(
        lambda g: b"path,cat,dog\n" + as_csv([[path, str(p), str(1 - p)] for path, p in g])
    ),
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda t: t.encode("utf-16")),
)


def tried(
    tally: Tally, what: str, file: Path, parse: Callable[[], object], wrong: type[CurationError] = InputError
) -> None:
    """Parse; a sentence that names the file is as good as a result, and anything else is a crash."""
    tally.count(f"fuzzed: {what}", tried=1)
    said = ""
    try:
        parse()
    except wrong as error:
        said = str(error) or "nothing"
    assert not said or file.name in said, f"no file in: {said}"
    tally.count(f"fuzzed: {what}", answered=1)
    tally.whole.add(f"fuzzed: {what}")


@quick
@given(content=contents)
def test_tables_of_labels(tmp_path: Path, tally: Tally, content: bytes) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    tried(tally, "tables of labels", file, lambda: rows_of_table(file, tmp_path))


@quick
@given(content=contents)
def test_tables_of_predictions(tmp_path: Path, tally: Tally, content: bytes) -> None:
    file = tmp_path / "mine.csv"
    file.write_bytes(content)
    tried(
        tally, "tables of predictions", file, lambda: read_predictions(file, CLASSES, {"s1": ["a.png"]}, {"s1": "c1"})
    )


@quick
@given(content=contents)
def test_files_of_answers(tmp_path: Path, tally: Tally, content: bytes) -> None:
    file = tmp_path / "answers.csv"
    file.write_bytes(content)
    tried(tally, "files of answers", file, lambda: ReplayAnnotator(file, classes=CLASSES, paths={"s1": ("a.png",)}))


columns = st.sampled_from(["path", "label", "split", "group", "light"])
values = st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=5), st.binary(max_size=4), st.dates(),
                   st.lists(st.integers(0, 9), max_size=2))  # fmt: skip


@quick
@given(frame=st.dictionaries(columns, values, max_size=5).map(lambda f: {"path": "a.png", "label": "cat"} | f),
       cut=st.integers(0, 3000))  # fmt: skip
def test_parquet_tables(tmp_path: Path, tally: Tally, frame: dict[str, object], cut: int) -> None:
    file = tmp_path / "labels.parquet"
    pd.DataFrame({name: [value, value] for name, value in frame.items()}).to_parquet(file)
    if cut < 1000:
        file.write_bytes(file.read_bytes()[:cut])
    tried(tally, "Parquet tables", file, lambda: rows_of_table(file, tmp_path))


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
keys = st.sampled_from(
    ["seed", "name", "images", "holdout_share", "review", "backbone", "budget", "size", "sead", "folds"]
)


@quick
@given(values=st.dictionaries(keys, st.one_of(plain, st.dictionaries(keys, plain, max_size=3)), max_size=4))
def test_settings(tmp_path: Path, tally: Tally, values: dict[str, object]) -> None:
    tried(tally, "settings", tmp_path / "curation.toml", lambda: settings_from_dict(values))


@quick
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode),
                         st.tuples(keys, st.text(max_size=9)).map(lambda p: f"{p[0]} = {p[1]}".encode())))  # fmt: skip
def test_settings_files(tmp_path: Path, tally: Tally, content: bytes) -> None:
    file = tmp_path / "curation.toml"
    file.write_bytes(content)
    tried(tally, "settings files", file, lambda: read_settings(file))


@quick
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"]))
def test_damaged_images(tmp_path: Path, tally: Tally, data: st.DataObject, kind: str) -> None:
    whole = io.BytesIO()
    Image.linear_gradient("L").resize((24, 20)).convert("RGB").save(whole, kind)
    raw = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / f"image.{kind.lower()}"
    cut = data.draw(st.one_of(st.just(len(raw)), st.just(len(raw)), st.integers(1, len(raw))))
    file.write_bytes(bytes(raw[:cut]))
    tried(tally, "damaged images", file, lambda: read_image(file))


@quick
@given(content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_manifests(tmp_path: Path, tally: Tally, content: bytes) -> None:
    file = tmp_path / "score.json"
    file.write_bytes(content)
    tried(tally, "manifests", file, lambda: read_json(file), ProjectError)


@settings(quick, max_examples=20)
@given(name=st.text(max_size=20), content=st.binary(max_size=80))
def test_backups(tmp_path: Path, tally: Tally, name: str, content: bytes) -> None:
    file = tmp_path / "backup.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for member, inner in (("backup.json", b'{"format": 1}'), (name or "x", content), ("ledger.jsonl", content)):
            info = tarfile.TarInfo(member.replace("\0", ""))
            info.size = len(inner)
            archive.addfile(info, io.BytesIO(inner))
    target = tmp_path / f"q{len(os.listdir(tmp_path))}"
    with pytest.raises(CurationError):
        restore(file, target)
    assert not (target / "curation.toml").exists()
    tally.count("fuzzed: backups", tried=1, answered=1)
    tally.whole.add("fuzzed: backups")


@quick
@given(mounts=st.text(max_size=100), file=st.text(min_size=1, max_size=10).filter(lambda t: "\0" not in t))
def test_tables_of_mounts(mounts: str, file: str) -> None:
    assert isinstance(network_filesystem(Path("/") / file, mounts), str)


# --- cases that have a right answer

pairs = st.lists(st.tuples(cells, cells), min_size=1, max_size=5)


@quick
@given(rows=pairs)
def test_no_cell_of_an_export_is_a_formula_and_it_reads_back_the_same(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    plain_rows = [
        tuple(cell.replace("\0", "").replace("\r", "") for cell in row) for row in rows if row[0].strip("\0 \r")
    ]
    frame = pd.DataFrame(plain_rows, columns=["path", "label"])
    text = csv_text(frame)
    for row in list(csv.reader(io.StringIO(text)))[1:]:
        for cell in row:
            assert cell[:1] not in ("=", "@", "\t", "+", "-") or is_number(cell), cell
    file = tmp_path / "export.csv"
    file.write_text(text, encoding="utf-8", newline="")
    if all(path.strip() for path, _ in plain_rows) and plain_rows:
        _, back = read_table(file)
        assert [r["path"] for _, r in back] == [p for p, _ in plain_rows]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(folder / f"{number}.png")
    return folder


def test_rows_that_agree_are_one_and_rows_that_contradict_are_told(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 3)
    (tmp_path / "t.csv").write_text("path,label\n0.png,cat\n0.png,cat\n1.png,cat\n1.png,dog\n./1.png,dog\n2.png,dog\n")
    found = inspect_rows(rows_of_table(tmp_path / "t.csv", folder))
    agree, contradict, _ = gather(found, known_splits={}, seed=0, holdout_share=0.2, draw_holdout=False)
    assert (agree.label, agree.notes) == ("cat", ())
    assert contradict.label == "dog"
    assert "the same picture has the labels 'cat' (1), 'dog' (2); 'dog' is taken" in contradict.notes[0]


@pytest.mark.parametrize("classes", [2, 1000])
def test_two_to_a_thousand_classes(tmp_path: Path, classes: int) -> None:
    rows = [Row(f"{n}.png", tmp_path, f"class {n % classes}", None, None, {}, "") for n in range(3 * classes)]
    found = Found(tuple((row, ImageFacts(f"{n:064x}", 8, 8)) for n, row in enumerate(rows)))
    images = gather(found, known_splits={}, seed=0, holdout_share=0.2)
    check_classes(images)
    assert len({g.label for g in images if g.split == "train"}) == classes


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252", "utf-8-sig"])
def test_a_table_in_another_encoding_is_named_or_read(tmp_path: Path, encoding: str) -> None:
    folder = images(tmp_path / "images", 1)
    (tmp_path / "t.csv").write_bytes("path,label\n0.png,Käfer\n".encode(encoding))
    if encoding == "utf-8-sig":
        assert [r.label for r in rows_of_table(tmp_path / "t.csv", folder)] == ["Käfer"]
    else:
        with pytest.raises(DataError, match=r"t\.csv row \d: not UTF-8 text; save the table as UTF-8 CSV"):
            rows_of_table(tmp_path / "t.csv", folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sead = 1", "unknown setting 'sead'; did you mean 'seed'?"), ("seed = 'x'", "'seed' must be of type int"),
        ("seed = -1", "'seed' must be 0 to"), ("[review]\nbudget = -1", "'review.budget' must be 0 or more"),
        ("[review]\nbudget = 1.5", "must be of type int"), ("holdout_share = 1", "'holdout_share' must be in (0, 1)"),
        ("[review]\nbudjet = 5", "did you mean 'review.budget'?"), ("seed =", "is not valid TOML"),
        ("review = 3", "'review' is a table of settings"), ("seed = true", "must be of type int"),
        ("ledger = 'postgresql://me:secret@host/db'", "must not hold a password"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "curation.toml").write_text(text)
    with pytest.raises(CurationError) as caught:
        read_settings(tmp_path / "curation.toml")
    assert said in str(caught.value)
    assert str(tmp_path / "curation.toml") in str(caught.value)
    assert "secret" not in str(caught.value)
