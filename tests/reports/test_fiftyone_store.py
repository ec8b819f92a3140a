"""Recording in FiftyOne, as far as it can be told without it; the rest is in tests/e2e and tests/contracts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from curation.errors import DatabaseError, RecordError
from reports import fiftyone_store
from reports.fiftyone_store import FiftyOneReporter, changed_live, environment, error_gist
from tests.reports.cases import make_images, make_summary, make_table


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("module", ["fiftyone_plan", "fiftyone_recording", "fiftyone_store", "app"])
def test_importing_what_records_loads_neither_fiftyone_nor_pandas(module: str) -> None:
    code = f"import sys, reports.{module}; assert not {{'fiftyone', 'pandas'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_table_without_a_column_or_with_a_sample_twice_is_refused_before_anything_starts(
    files: list[Path], tmp_path: Path
) -> None:
    reporter, table = FiftyOneReporter(tmp_path / "home", "p", "id"), make_table(files, 1)
    with pytest.raises(RecordError, match=r"lacks the columns \['reason'\]"):
        reporter.record(make_summary(files, 1), table.drop(columns="reason"))
    with pytest.raises(RecordError, match="is repeated"):
        reporter.record(make_summary(files, 1), table.iloc[[0, 0]])
    assert not (tmp_path / "home").exists()


def test_what_a_killed_program_handed_over_goes_with_the_next_recording(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    home = tmp_path / "fiftyone"
    for process in (ended.pid, os.getppid()):
        (home / f"handover-{process}-x").mkdir(parents=True)
        (home / f"handover-{process}-x" / "table.parquet").write_bytes(b"paths and labels")
    seen: list[Path] = []

    def noted(_uri: str, _dataset: str, folder: Path, _lock: Path) -> None:
        seen.append(folder)
        assert sorted(f.name for f in folder.iterdir()) == ["facts.json", "table.parquet"]
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "result.json").write_text("{}")

    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:1")
    monkeypatch.setattr(fiftyone_store, "_write_apart", noted)
    FiftyOneReporter(home, "p", "0123").record(make_summary(files, 1), make_table(files, 1))
    assert seen[0].parent == home
    assert [f.name for f in home.glob("handover-*")] == [f"handover-{os.getppid()}-x"]


def test_environment_names_the_database_and_keeps_the_callers_own() -> None:
    made = environment("mongodb://here", {"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert made["FIFTYONE_DATABASE_URI"] == "mongodb://here"
    assert made["PATH"] == "/bin"
    assert made["PYTHONPATH"].split(os.pathsep)[1] == "/mine"
    assert Path(made["FIFTYONE_PLUGINS_DIR"], "curation", "fiftyone.yml").is_file()


def test_gist_is_the_reason_and_not_the_traceback() -> None:
    assert error_gist('  File "x"\npymongo.errors.ServerSelectionTimeoutError: no\nbye\n').endswith("no")
    assert error_gist("") == "it said nothing"


class Kept:
    """Documents of samples, as the driver's collection gives and takes them."""

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        self.documents = documents

    def find(self, _match: Any, _fields: Any) -> list[dict[str, Any]]:
        return self.documents


def test_only_what_reviewers_changed_since_is_written_again() -> None:
    nothing = dict.fromkeys(("review", "cause", "note"), "")
    stored = [
        {"uid": "same", "current": {"label": "cat"}, "review": "cat (Ann)", "cause": None},
        {"uid": "label", "current": {"label": "cat"}},
        {"uid": "cause", "current": None},
        {"uid": "back", "current": {"label": "cat"}, "review": "cat (Ann)"},
    ]
    rows = [
        {"sample_id": "same", "current": "cat", **nothing, "review": "cat (Ann)"},
        {"sample_id": "label", "current": "dog", **nothing},
        {"sample_id": "cause", "current": "", **nothing, "cause": "glare"},
        {"sample_id": "back", "current": "cat", **nothing},
        {"sample_id": "not in the dataset", "current": "cat", **nothing},
    ]
    assert [row["sample_id"] for row in changed_live(Kept(stored), rows)] == ["label", "cause", "back"]


def test_database_that_does_not_answer_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://me:secret@127.0.0.1:9/?serverSelectionTimeoutMS=300")
    reporter = FiftyOneReporter(tmp_path, "p", "0123")
    for ask in (reporter.whole, lambda: reporter.refresh([])):
        with pytest.raises(DatabaseError, match=r"database does not answer: 127\.0\.0\.1:9") as caught:
            ask()
        assert "secret" not in str(caught.value)
