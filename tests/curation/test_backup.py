"""A backup made while others work restores to the same project, and what is no backup makes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from curation.backup import back_up, restore
from curation.config import ReviewSettings, Settings, SliceSettings, settings_to_toml
from curation.errors import CurationError
from curation.ledger import Ledger, NewPath, NewSample
from curation.records import Decision
from curation.runs import ProjectPaths, read_json, write_json, write_whole

A = "a" * 64


@pytest.fixture
def project(tmp_path: Path) -> ProjectPaths:
    paths = ProjectPaths(tmp_path / "p")
    write_whole(paths.settings, settings_to_toml(Settings(name="parts", seed=7)))
    write_whole(paths.secret, "s" * 64, private=True)
    write_json(paths.home / "people.json", {"ann@example.com": "Ann"}, private=True)
    write_json(paths.home / "adopted.json", [{"url": "http://127.0.0.1:8080", "project": 3}])
    write_json(paths.holdout_flags, {A: "looks like a dog"})
    write_whole(paths.iteration(1) / "issues.parquet", b"issues")
    write_json(paths.iteration(1) / "score.json", {"labeled": 1})
    write_whole(paths.iteration(1) / "report" / "index.html", "<html>")
    write_whole(paths.cache / "pixels" / "big.u8", b"rebuildable")
    (paths.iteration(1) / ".half.12.part").write_bytes(b"half")
    ledger = Ledger.in_file(paths.ledger)
    ledger.add_classes(["cat", "dog"], who="import")
    ledger.add_samples(
        [NewSample(A, "train", None, 4, 4)], [NewPath(A, "a.png", "/images", "c1", {})], {A: "c1"},
        who="import", why="label as given",
    )  # fmt: skip
    ledger.close()
    return paths


def test_what_is_restored_is_what_there_was(project: ProjectPaths, tmp_path: Path) -> None:
    ledger = Ledger.in_file(project.ledger)
    rows = back_up(project, ledger, tmp_path / "out" / "backup.tar.gz")
    assert rows == 8  # the version, two classes, a sample, its path, its label, and two blocks
    assert (tmp_path / "out" / "backup.tar.gz").stat().st_mode & 0o777 == 0o600
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["backup.tar.gz"]
    restore(tmp_path / "out" / "backup.tar.gz", tmp_path / "q")
    other = ProjectPaths(tmp_path / "q")
    names = sorted(f.relative_to(other.root).as_posix() for f in other.root.rglob("*") if f.is_file())
    assert names == [
        ".curation/adopted.json", ".curation/holdout-flags.json",
        ".curation/iterations/001/issues.parquet", ".curation/iterations/001/report/index.html",
        ".curation/iterations/001/score.json", ".curation/ledger.db", ".curation/people.json", ".curation/secret",
        "curation.toml",
    ]  # fmt: skip
    assert read_json(other.home / "people.json") == {"ann@example.com": "Ann"}
    assert [f.stat().st_mode & 0o777 for f in (other.secret, other.home / "people.json")] == [0o600, 0o600]
    assert other.settings.read_text() == project.settings.read_text()
    restored = Ledger.in_file(other.ledger)
    assert (restored.samples(), restored.labels()) == (ledger.samples(), ledger.labels())
    assert restored.faults({"then": ledger.head()}) == []


def test_files_in_the_folder_that_settings_name_come_along(project: ProjectPaths, tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_text("path,label\n")
    settings = Settings(
        name="parts", answer_key="../outside.csv", review=ReviewSettings(texts="words/texts.toml"),
        slices=SliceSettings(recipes="./recipes.toml"),
    )  # fmt: skip
    write_whole(project.settings, settings_to_toml(settings))
    write_whole(project.root / "words" / "texts.toml", 'shown = "check"')
    write_whole(project.root / "recipes.toml", "")
    write_whole(project.root / "notes.txt", "named by nothing")
    back_up(project, Ledger.in_file(project.ledger), tmp_path / "b.tar.gz")
    restore(tmp_path / "b.tar.gz", tmp_path / "q")
    assert (tmp_path / "q" / "words" / "texts.toml").read_text() == 'shown = "check"'
    assert sorted(f.name for f in (tmp_path / "q").iterdir()) == [".curation", "curation.toml", "recipes.toml", "words"]
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes((tmp_path / "b.tar.gz").read_bytes()[:-9])
    with pytest.raises(CurationError):
        restore(cut, tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("named", ["../evil", "/tmp/evil", "a/../../evil", ".curation/evil", "curation.toml", ""])
def test_settings_in_a_backup_let_no_file_lead_elsewhere(tmp_path: Path, named: str) -> None:
    file, settings = tmp_path / "bad.tar.gz", f'answer_key = "{named}"'.encode()
    with tarfile.open(file, "w:gz") as archive:
        members = {"backup.json": b'{"format": 1}', "curation.toml": settings}
        for member, content in (*members.items(), (named or "x", b"evil")):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(CurationError):
        restore(file, tmp_path / "q")
    assert list(tmp_path.rglob("evil*")) == []
    assert not (tmp_path / "q").exists()


def test_a_stage_that_ends_while_the_backup_is_made_is_whole_in_it_or_not_finished(
    project: ProjectPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.in_file(project.ledger)
    read = Path.read_bytes

    def stage_ends_meanwhile(file: Path) -> bytes:
        if file.name == "issues.parquet" and not (project.iteration(1) / "review.json").exists():
            write_whole(project.iteration(1) / "late.parquet", b"late")
            ledger.decide(
                [Decision(A, "change", "c2", 0.9, (1,), "people agree")], who="consensus", iteration=1,
                at=datetime(2026, 1, 1, tzinfo=UTC),
            )  # fmt: skip
            write_json(project.iteration(1) / "review.json", {"changed": 1})
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", stage_ends_meanwhile)
    back_up(project, ledger, tmp_path / "backup.tar.gz")
    monkeypatch.undo()
    restore(tmp_path / "backup.tar.gz", tmp_path / "q")
    other = ProjectPaths(tmp_path / "q")
    assert not (other.iteration(1) / "review.json").exists()  # made again, from the ledger that has its events
    assert Ledger.in_file(other.ledger).labels()[A].class_id == "c2"


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", ".curation/iterations/../../../evil", "evil", ".curation/ledger.db", "x/\n"]
)
def test_a_file_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "bad.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for member, content in (("backup.json", b'{"format": 1}'), (name, b"evil")):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(CurationError, match="no part of a backup"):
        restore(file, tmp_path / "q")
    assert list(tmp_path.rglob("evil*")) == []
    assert not (tmp_path / "q" / "curation.toml").exists()


def test_links_in_a_backup_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        info = tarfile.TarInfo(".curation/iterations/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    with pytest.raises(CurationError, match="no part of a backup"):
        restore(file, tmp_path / "q")


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8b\x08\x00", json.dumps({"format": 9}).encode()])
def test_what_is_no_backup_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(CurationError, match="bad can't be read as a backup"):
        restore(tmp_path / "bad", tmp_path / "q")


def test_a_backup_that_was_cut_short_makes_no_project(project: ProjectPaths, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar.gz"
    back_up(project, Ledger.in_file(project.ledger), file)
    whole = file.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 12)):
        target = tmp_path / f"q{size}"
        file.write_bytes(whole[:size])
        with pytest.raises(CurationError):
            restore(file, target)
        assert not (target / "curation.toml").exists()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("url", "said"),
    [("postgresql://u:secret@127.0.0.1/x", "must not hold a password"), ("sqlite:////nowhere/at/all.db", "ledger")],
)
def test_a_restore_that_failed_can_be_done_again(
    project: ProjectPaths, tmp_path: Path, there: bool, url: str, said: str
) -> None:
    back_up(project, Ledger.in_file(project.ledger), tmp_path / "b.tar.gz")
    if there:
        (tmp_path / "q").mkdir()
    with pytest.raises(CurationError, match=said):
        restore(tmp_path / "b.tar.gz", tmp_path / "q", ledger=url)
    assert ((tmp_path / "q").exists(), list(tmp_path.rglob("q/*"))) == (there, [])
    restore(tmp_path / "b.tar.gz", tmp_path / "q")
    assert len(Ledger.in_file(ProjectPaths(tmp_path / "q").ledger).samples()) == 1


def test_a_backup_that_was_cut_short_leaves_folder_and_database_empty(project: ProjectPaths, tmp_path: Path) -> None:
    file, url = tmp_path / "b.tar.gz", f"sqlite:///{tmp_path / 'team.db'}"
    back_up(project, Ledger.in_file(project.ledger), file)
    whole = file.read_bytes()
    for size in (len(whole) // 2, len(whole) - 4):  # the second lacks a part of the check sum alone
        file.write_bytes(whole[:size])
        with pytest.raises(CurationError):
            restore(file, tmp_path / "q", ledger=url)
    file.write_bytes(whole)
    restore(file, tmp_path / "q", ledger=url)
    assert len(Ledger(url).samples()) == 1


def test_a_backup_with_damaged_bytes_makes_nothing(project: ProjectPaths, tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    names = (hashlib.sha256(str(number).encode()).hexdigest() for number in range(2000))
    write_whole(project.iteration(1) / "report" / "names.txt", " ".join(names))
    back_up(project, Ledger.in_file(project.ledger), file)
    whole = file.read_bytes()
    for place in range(0, len(whole) - 20, max(1, len(whole) // 30)):
        file.write_bytes(whole[:place] + b"\xff" * 20 + whole[place + 20 :])
        with pytest.raises(CurationError, match=r"b\.tar\.gz"):
            restore(file, tmp_path / "q")
        assert not (tmp_path / "q").exists()


def test_a_folder_that_holds_something_is_left_alone(project: ProjectPaths, tmp_path: Path) -> None:
    back_up(project, Ledger.in_file(project.ledger), tmp_path / "b.tar.gz")
    with pytest.raises(CurationError, match="is not empty"):
        restore(tmp_path / "b.tar.gz", project.root)
