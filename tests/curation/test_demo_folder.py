"""The demo takes a folder of its own, and leaves everybody else's alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_stand_ins import draw

from curation.config import Settings, settings_to_toml
from curation.demo import check_folder, run_demo
from curation.errors import ConfigError, ProjectError
from curation.project import Project


def run(folder: Path, limit: int | None = None) -> None:
    run_demo(
        folder, keep=False, iterations=1, budget=5, limit=limit, size=None, seed=0, progress=None, say=print,
        show=print, table_of=str,
    )  # fmt: skip


def test_a_table_of_the_users_own_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\nmine.png,precious\n")
    with pytest.raises(ProjectError, match="is not empty and no demo's; name a folder that is empty"):
        run(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["labels.csv"]
    assert "precious" in (tmp_path / "labels.csv").read_text()


def test_somebodys_own_project_is_not_run(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 12)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{label}\n" for p, label in truth.items()))
    project, _ = Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv")
    with pytest.raises(ProjectError, match="no demo's"):
        run(tmp_path / "p")
    assert project.ledger.iterations() == []


def test_a_folder_that_a_demo_has_begun_is_gone_on_with(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "not there")
    (tmp_path / ".curation").mkdir()
    (tmp_path / "labels.csv").write_text("path,label,split,wafer,grade\n")
    check_folder(tmp_path)
    (tmp_path / "curation.toml").write_text(settings_to_toml(Settings(name="ELPV demo", answer_key="answer_key.csv")))
    (tmp_path / "notes.txt").write_text("seen")
    check_folder(tmp_path)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_demo_has_images(tmp_path: Path, limit: int) -> None:
    with pytest.raises(ConfigError, match=f"--limit must be 1 or more, got {limit}"):
        run(tmp_path, limit)
    assert list(tmp_path.iterdir()) == []
