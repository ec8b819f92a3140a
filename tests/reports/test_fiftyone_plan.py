"""What is recorded in FiftyOne, told without it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reports.fiftyone_plan import (
    VIEWS,
    dataset_name,
    detail_to_forget,
    iteration_facts,
    iteration_fields,
    plan_views,
    sample_rows,
    view_number,
    view_slug,
)
from reports.fiftyone_recording import _save_view
from tests.reports.cases import CLASSES, SLICE, make_images, make_summary, make_table


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"))


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
    rows = [iteration_fields(row, "it01") for row in sample_rows(make_table(files, 1))]
    assert rows[1]["quality_it01"] == 1.0
    pool = rows[23]
    assert (pool["quality_it01"], pool["label_it01"], pool["suggested_it01"]) == (None, None, None)
    assert rows[2]["kinds_it01"] == ["label", "near_duplicate"]
    assert rows[1]["pred_it01"]["label"] == CLASSES[2]


def test_old_iterations_lose_detail_but_not_labels_predictions_and_evaluations() -> None:
    fields = [f"{start}_it{n:02d}" for n in range(7) for start in ("pred", "label", "eval", "quality", "slices")]
    assert detail_to_forget(fields, range(7), keep=5) == ["quality_it00", "slices_it00", "quality_it01", "slices_it01"]


def test_metadata_column_that_ends_like_an_iteration_is_kept() -> None:
    assert detail_to_forget(["meta_batch_it00", "prop_it00"], range(7), keep=5) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("issues_it03", 3.0), ("slice_it12_2: a\nb", 12.0), ("mine", float("inf")), ("Nice_it03", float("inf")),
        ("to_discuss_it03", float("inf")), ("slice_it03", float("inf")), ("issues_it03_1: x", float("inf")),
    ],
)  # fmt: skip
def test_a_view_of_ours_is_told_from_a_persons(name: str, number: float) -> None:
    assert view_number(name) == number


def test_every_view_of_ours_is_told_to_be_ours(files: list[Path]) -> None:
    plans = plan_views(iteration_facts(make_summary(files, 2)) | {"confused": ["cat", "dog", 3]})
    assert {view_number(plan.name) for plan in plans} == {2.0}
    assert {plan.name.partition("_it")[0] for plan in plans} == {*VIEWS, "slice"} - {"contested"}


class Dataset:
    """Saved views as FiftyOne keeps them: no two of a dataset share what stands for them in addresses."""

    def __init__(self, *names: str) -> None:
        self.views = {view_slug(name): name for name in names}

    def list_saved_views(self) -> list[str]:
        return list(self.views.values())

    def update_saved_view_info(self, name: str, info: dict[str, str]) -> None:
        self.views.pop(view_slug(name))
        assert self.views.setdefault(view_slug(info["name"]), info["name"]) == info["name"]

    def save_view(self, name: str, view: object, overwrite: bool = False, **_: object) -> None:
        assert overwrite
        assert self.views.setdefault(view_slug(name), name) == name


def test_a_view_of_a_persons_own_with_the_address_of_ours_keeps_its_images_under_another_name() -> None:
    dataset = Dataset("Issues it04", "reviewed", "Issues it04 own 1")
    for _ in range(2):
        _save_view(dataset, "issues_it04", None)
        _save_view(dataset, "reviewed", None)
    assert sorted(dataset.list_saved_views()) == ["Issues it04 own 1", "Issues it04 own 2", "issues_it04", "reviewed"]


def test_addresses_of_views_are_those_that_fiftyone_makes() -> None:
    """Its documentation's examples, and a slice's."""
    named = {
        "coco_2017": "coco-2017", "c+o+c+o 2-0-1-7": "c-o-c-o-2-0-1-7", "cat.DOG": "cat-dog", "---name----": "name",
        "Brian's #$&@ (Awesome?) Dataset!": "brians-awesome-dataset", "sPaM     aNd  EgGs": "spam-and-eggs",
        "slice_it01_1: a (b) < 0.3 & 'c'": "slice-it01-1-a-b-0-3-c",
    }  # fmt: skip
    assert {name: view_slug(name) for name in named} == named
