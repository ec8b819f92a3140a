"""What is recorded in FiftyOne, as far as it can be told without it; the rest is in tests/e2e and tests/contracts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curation.errors import DatabaseError, RecordError
from reports.fiftyone_store import (
    FiftyOneReporter,
    _iteration_fields,
    _rows,
    changed_live,
    dataset_name,
    detail_to_forget,
    environment,
    error_gist,
    iteration_facts,
    plan_views,
    view_number,
)
from tests.reports.cases import CLASSES, SLICE, make_images, make_summary, make_table


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"))


def test_importing_the_door_loads_neither_fiftyone_nor_pandas() -> None:
    code = "import sys, reports.fiftyone_store, reports.app; assert not {'fiftyone', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["Ünïcode 猫", "<script>", "", "a" * 300, "../../etc"])
def test_dataset_name_is_safe_in_an_address_whatever_the_project_is_called(name: str) -> None:
    made = dataset_name(name, "9f8e7d6c5b4a")
    assert made.endswith("-9f8e7d6c")
    assert len(made) < 80
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_facts_survive_json(files: list[Path]) -> None:
    facts = iteration_facts(make_summary(files, 2))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["confused"] == [CLASSES[0], CLASSES[1], 3]
    assert facts["slices"][0]["interval"] == "25.0 to 58.0 %"


def test_a_recipes_picture_belongs_to_the_slice_that_it_was_tried_on(files: list[Path]) -> None:
    summary = make_summary(files, 1)
    [card] = summary.slices
    both = replace(summary, slices=(card, replace(card, preview=b"png")))
    assert [weak["preview"] for weak in iteration_facts(both)["slices"]] == [False, True]


def test_views_stand_in_the_order_of_the_work(files: list[Path]) -> None:
    plans = plan_views(iteration_facts(make_summary(files, 2)))
    assert [plan.name.split(":")[0] for plan in plans] == [
        "issues_it02", "changed_it02", "disputed_it02", "slice_it02_1", "confused_it02", "new_errors_it02",
        "fixed_errors_it02", "holdout_errors_it02", "holdout_suspects_it02", "conflicts_it02", "duplicates_it02",
    ]  # fmt: skip
    assert plans[3].match == {"slices_it02": SLICE}
    assert not plans[0].descending  # 0 is the worst label quality


def test_quality_is_stored_in_percent_and_missing_values_as_nothing(files: list[Path]) -> None:
    rows = [_iteration_fields(row, "it01") for row in _rows(make_table(files, 1))]
    assert rows[1]["quality_it01"] == 1.0
    pool = rows[23]
    assert (pool["quality_it01"], pool["label_it01"], pool["suggested_it01"]) == (None, None, None)
    assert rows[2]["kinds_it01"] == ["label", "near_duplicate"]
    assert rows[1]["pred_it01"]["label"] == CLASSES[2]


def test_table_without_a_column_or_with_a_sample_twice_is_refused_before_anything_starts(
    files: list[Path], tmp_path: Path
) -> None:
    reporter, table = FiftyOneReporter(tmp_path / "home", "p", "id"), make_table(files, 1)
    with pytest.raises(RecordError, match=r"lacks the columns \['reason'\]"):
        reporter.record(make_summary(files, 1), table.drop(columns="reason"))
    with pytest.raises(RecordError, match="is repeated"):
        reporter.record(make_summary(files, 1), table.iloc[[0, 0]])
    assert not (tmp_path / "home").exists()


def test_old_iterations_lose_detail_but_not_labels_predictions_and_evaluations() -> None:
    fields = [f"{start}_it{n:02d}" for n in range(7) for start in ("pred", "label", "eval", "quality", "slices")]
    assert detail_to_forget(fields, range(7), keep=5) == ["quality_it00", "slices_it00", "quality_it01", "slices_it01"]


def test_metadata_column_that_ends_like_an_iteration_is_kept() -> None:
    assert detail_to_forget(["meta_batch_it00", "prop_it00"], range(7), keep=5) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [("issues_it03", 3.0), ("slice_it12_2: a\nb", 12.0), ("mine", float("inf")), ("Nice_it03", float("inf"))],
)
def test_a_view_of_ours_is_told_from_a_persons(name: str, number: float) -> None:
    assert view_number(name) == number


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
