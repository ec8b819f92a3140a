"""Weak slices are found where they were planted, named readably, confirmed on the holdout, and never on pure noise."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from curation import slice_search, slices
from curation.audit import wilson_interval
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.judging import slice_table
from curation.neighbours import unit_directions
from curation.records import Classes, Condition, Sample, Slice
from curation.slice_search import standing_out
from curation.slice_words import condition_name, weakness_of, words
from curation.slices import confirm_slices, find_slices, looks_columns, members

CLASSES = Classes(("c1", "c2"), ("functional", "defective"))


def table_of(rows: int, rng: np.random.Generator, *, properties: int = 4) -> tuple[pd.DataFrame, list[str]]:
    """Metadata and properties that have nothing to do with one another, and labels."""
    columns: dict[str, object] = {f"p{number}": rng.normal(size=rows) for number in range(properties)}
    columns["brightness"] = rng.random(rows)
    columns["wafer"] = rng.choice(["mono", "poly"], rows)
    columns["camera"] = rng.choice([1, 2, 3], rows)
    return pd.DataFrame(columns), [str(c) for c in rng.choice(["c1", "c2"], rows)]


def search(
    table: pd.DataFrame,
    errors: np.ndarray,
    labels: list[str],
    settings: SliceSettings | None = None,
    looks: np.ndarray | None = None,
    paths: list[str] | None = None,
    doubts: np.ndarray | None = None,
) -> list[Slice]:
    ids = [f"s{row}" for row in range(len(table))]
    chosen = settings or SliceSettings()
    return find_slices(
        table, errors, ids, settings=chosen, classes=CLASSES, labels=labels, looks=looks, paths=paths, doubts=doubts
    )


def a_slice(*conditions: Condition) -> Slice:
    return Slice("x", conditions, (), 100, 31, 0.31, (0.22, 0.41), 0.09, 0.001)


class TestFinding:
    def test_planted_slice_is_found_named_and_described(self) -> None:
        rng = np.random.default_rng(0)
        table, labels = table_of(1500, rng)
        planted = (np.array(labels) == "c2") & (table["wafer"] == "poly").to_numpy()
        errors = rng.random(1500) < np.where(planted, 0.4, 0.08)
        (found,) = search(table, errors, labels)
        assert found.name == "class = defective and wafer = poly"
        assert found.conditions == (Condition("class", "=", "c2"), Condition("wafer", "=", "poly"))
        assert found.size == planted.sum()
        assert found.sample_ids == tuple(f"s{row}" for row in np.flatnonzero(planted))
        assert found.errors == errors[planted].sum()
        assert found.error_rate == errors[planted].mean()
        assert found.rest_error_rate == errors[~planted].mean()
        assert found.ci == wilson_interval(int(errors[planted].sum()), int(planted.sum()))
        assert found.p_value <= 0.05

    def test_numeric_slice_is_cut_near_where_it_was_planted(self) -> None:
        rng = np.random.default_rng(1)
        table, labels = table_of(2000, rng)
        errors = rng.random(2000) < np.where(table["brightness"] < 0.1, 0.4, 0.06)
        (found,) = search(table, errors, labels)
        (condition,) = found.conditions
        assert (condition.field, condition.op) == ("brightness", "<")
        assert 0.07 < float(condition.value) < 0.13
        assert found.weakness == "dark"
        assert found.name == f"brightness < {condition.value:g}"

    def test_of_columns_that_go_together_the_one_that_can_be_repaired_names_the_slice(self) -> None:
        """Blurred images have fewer edges too, here even a little more strictly than they are blurred."""
        rng = np.random.default_rng(11)
        table, labels = table_of(1500, rng)
        blurred = rng.random(1500) < 0.08
        table["busyness"] = np.where(blurred, 0.01, 0.2) + rng.normal(0, 0.002, 1500)
        table["sharpness"] = np.where(blurred & (rng.random(1500) < 0.97), 0.2, 0.6) + rng.normal(0, 0.02, 1500)
        errors = rng.random(1500) < np.where(blurred, 0.6, 0.1)
        (found,) = search(table, errors, labels)
        assert [(c.field, c.op) for c in found.conditions] == [("sharpness", "<")]
        assert found.weakness == "blurred"

    def test_images_that_look_alike_come_after_what_has_words_and_classes_last(self) -> None:
        rng = np.random.default_rng(12)
        table, labels = table_of(1500, rng)
        looks = rng.normal(size=(1500, 6)).astype(np.float32)
        alike = np.argsort(-(unit_directions(looks) @ unit_directions(looks)[7]))[:150]
        group = np.isin(np.arange(1500), alike)
        dark = (table["brightness"] < 0.05).to_numpy()
        hard = np.array(labels) == "c2"
        errors = rng.random(1500) < np.where(dark, 0.6, np.where(group, 0.5, np.where(hard, 0.2, 0.05)))
        found = search(table, errors, labels, looks=looks)
        assert [[c.field.partition(" like ")[0] for c in s.conditions] for s in found] == [
            ["brightness"],
            ["looks"],
            ["class"],
        ]
        assert np.isin(found[1].sample_ids, [f"s{row}" for row in alike]).mean() > 0.7
        assert found[1].removable > found[0].removable
        (condition,) = found[1].conditions
        centre = condition.field.removeprefix("looks like ")
        assert found[1].typical[0] == centre
        assert found[1].name == f"looks like {centre}, nearest {1 - float(condition.value):.0%}"
        assert words(found[1], CLASSES).startswith(f"Images that look like {centre} (the nearest ")

    def test_looks_are_asked_of_other_images_too(self) -> None:
        rng = np.random.default_rng(15)
        table, labels = table_of(800, rng)
        looks = rng.normal(size=(800, 6)).astype(np.float32)
        alike = unit_directions(looks) @ unit_directions(looks)[7]
        errors = rng.random(800) < np.where(alike > 0.6, 0.6, 0.05)
        ids = [f"s{row}" for row in range(800)]
        (found,) = search(table, errors, labels, looks=looks)
        own = table.assign(**looks_columns([found], looks, ids, looks))
        assert tuple(ids[row] for row in np.flatnonzero(members(found, own, labels))) == found.sample_ids
        centre = looks[ids.index(found.typical[0])]
        near, far = centre + 0.01, 2 * looks.mean(axis=0) - centre
        other = pd.DataFrame(looks_columns([found], looks, ids, np.stack([near, far])))
        assert members(found, other, ["c1", "c1"]).tolist() == [True, False]

    def test_an_image_is_called_by_its_path_of_which_the_end_is_told_where_it_is_long(self) -> None:
        rng = np.random.default_rng(0)
        labels = ["c1"] * 800
        looks = rng.normal(size=(800, 6)).astype(np.float32)
        alike = unit_directions(looks) @ unit_directions(looks)[7]
        errors = rng.random(800) < np.where(np.argsort(np.argsort(-alike)) < 90, 0.6, 0.08)
        table = pd.DataFrame({"brightness": rng.random(800)})
        for folder, shown in (("cells/", "cells/s{}.png"), ("a" * 60 + "/", "…" + "a" * 30 + "/s{}.png")):
            (found,) = search(table, errors, labels, looks=looks, paths=[f"{folder}s{n:03}.png" for n in range(800)])
            place = int(found.conditions[0].field.removeprefix("looks like s"))
            assert found.name.startswith(f"looks like {shown.format(f'{place:03}')}, nearest ")
            assert found.conditions[0].shown == f"{folder}s{place:03}.png"

    def test_images_whose_paths_end_alike_give_two_names(self) -> None:
        rng = np.random.default_rng(0)
        looks = rng.normal(size=(400, 20)).astype(np.float32)
        looks[:50, :3] += 8
        looks[50:100, 5:8] -= 8
        errors = rng.random(400) < np.where(np.arange(400) < 100, 0.7, 0.04)
        paths = [f"{row // 50}/recordings/2026/session_000001/camera/frame.png" for row in range(400)]
        table = pd.DataFrame({"brightness": rng.random(400)})
        first, second = search(table, errors, ["c1", "c2"] * 200, looks=looks, paths=paths)
        own = second.conditions[0].field.removeprefix("looks like ")
        assert second.name == f"{first.name} ({own})"

    def test_look_that_is_gone_holds_nobody(self) -> None:
        gone = a_slice(Condition("looks like s9", ">=", 0.9))
        assert looks_columns([gone], np.eye(2, dtype=np.float32), ["s0", "s1"], np.eye(2, dtype=np.float32)) == {}
        assert members(gone, pd.DataFrame({"x": [1, 2]}), ["c1", "c1"]).tolist() == [False, False]

    def test_looks_on_pure_noise_have_no_slice_in_nearly_all_runs(self) -> None:
        with_any = 0
        for seed in range(20):
            rng = np.random.default_rng(2000 + seed)
            table, labels = table_of(300, rng, properties=1)
            looks = rng.normal(size=(300, 4)).astype(np.float32)
            with_any += bool(search(table, rng.random(300) < 0.15, labels, looks=looks))
        assert with_any <= 2

    def test_hard_class_makes_nothing_else_look_weak(self) -> None:
        """Most dark images are of the hard class; within it they are no worse than the bright ones."""
        rng = np.random.default_rng(13)
        table, labels = table_of(3000, rng)
        hard = np.array(labels) == "c2"
        table["brightness"] = np.where(hard, rng.beta(2, 5, 3000), rng.beta(5, 2, 3000))
        errors = rng.random(3000) < np.where(hard, 0.4, 0.05)
        assert [s.name for s in search(table, errors, labels)] == ["class = defective"]

    @pytest.mark.parametrize(("hard", "names"), [(0.22, ["lot = bad"]), (0.6, ["lot = bad", "class = functional"])])
    def test_class_that_is_wrong_less_often_than_the_rest_is_no_weak_slice(self, hard: float, names: list[str]) -> None:
        """Though it is wrong more often than others beside a weak slice that has none of it."""
        rng = np.random.default_rng(12)
        table, _ = table_of(1500, rng, properties=0)
        labels = ["c1" if row % 3 == 0 else "c2" for row in range(1500)]
        bad = (np.array(labels) == "c2") & (rng.random(1500) < 0.5)
        table["lot"] = np.where(bad, "bad", "good")
        errors = rng.random(1500) < np.where(bad, 0.55, np.where(np.array(labels) == "c1", hard, 0.03))
        assert [s.name for s in search(table, errors, labels)] == names

    def test_removable_errors_and_typical_members_are_told(self) -> None:
        rng = np.random.default_rng(14)
        table, labels = table_of(2000, rng)
        dark = (table["brightness"] < 0.1).to_numpy()
        errors = rng.random(2000) < np.where(dark, 0.5, 0.1)
        (found,) = search(table, errors, labels)
        inside = members(found, table, labels)
        usual = np.mean([errors[~inside & (np.array(labels) == c)].mean() for c in ("c1", "c2")])
        assert found.removable == pytest.approx(found.errors - found.size * usual, abs=0.5)
        darkest = table["brightness"].to_numpy().argsort()[:20]
        assert found.typical == tuple(f"s{row}" for row in darkest)

    def test_two_planted_slices_are_both_found_the_costlier_first(self) -> None:
        rng = np.random.default_rng(2)
        table, labels = table_of(3000, rng)
        dark = (table["brightness"] < 0.1).to_numpy()
        third = (table["camera"] == 3).to_numpy()
        errors = rng.random(3000) < np.where(dark, 0.5, np.where(third, 0.3, 0.05))
        assert [[c.field for c in s.conditions] for s in search(table, errors, labels)] == [["camera"], ["brightness"]]

    def test_near_copy_of_a_column_brings_no_second_slice(self) -> None:
        rng = np.random.default_rng(3)
        table, labels = table_of(1500, rng)
        table["luminance"] = table["brightness"] + rng.normal(0, 0.01, 1500)
        errors = rng.random(1500) < np.where(table["brightness"] < 0.1, 0.5, 0.06)
        assert len(search(table, errors, labels)) == 1

    def test_a_second_condition_is_named_only_where_it_matters(self) -> None:
        """Some second condition always fits the errors a little better; in these draws enough to win, were it free."""
        names = set()
        for seed in (101, 119, 128, 151):
            rng = np.random.default_rng(seed)
            table, labels = table_of(900, rng, properties=12)
            table["lot"] = rng.choice(["a", "b", "c", "d"], 900)
            errors = rng.random(900) < np.where(table["lot"] == "b", 0.16, 0.04)
            names |= {s.name for s in search(table, errors, labels)}
        assert names == {"lot = b"}

    def test_slices_are_found_where_most_rows_are_wrong(self) -> None:
        rng = np.random.default_rng(10)
        table, labels = table_of(1500, rng)
        errors = rng.random(1500) < np.where(table["camera"] == 3, 0.9, 0.6)
        (found,) = search(table, errors, labels)
        assert found.name == "camera = 3"

    def test_three_conditions_are_found_where_they_are_allowed(self) -> None:
        rng = np.random.default_rng(4)
        table, labels = table_of(3000, rng)
        planted = (np.array(labels) == "c2") & (table["wafer"] == "poly") & (table["camera"] == 2)
        errors = rng.random(3000) < np.where(planted, 0.6, 0.05)
        (found,) = search(table, errors, labels, SliceSettings(max_conditions=3))
        assert found.name == "class = defective and wafer = poly and camera = 2"
        assert all(len(s.conditions) == 1 for s in search(table, errors, labels, SliceSettings(max_conditions=1)))

    @pytest.mark.parametrize(("alpha", "most"), [(0.02, 2), (0.03, 3), (0.005, 1)])
    def test_slice_beyond_doubt_is_found_at_any_level(self, alpha: float, most: int) -> None:
        rng = np.random.default_rng(11)
        table, labels = table_of(400, rng, properties=0)
        errors = rng.random(400) < np.where(table["wafer"] == "poly", 0.8, 0.02)
        (found,) = search(table, errors, labels, SliceSettings(alpha=alpha, max_conditions=most))
        assert found.name == "wafer = poly"
        assert found.p_value <= alpha

    def test_pure_noise_has_a_slice_in_at_most_five_of_a_hundred_runs(self) -> None:
        with_any = 0
        for seed in range(100):
            rng = np.random.default_rng(1000 + seed)
            table, labels = table_of(300, rng, properties=2)
            with_any += bool(search(table, rng.random(300) < 0.15, labels))
        assert with_any <= 5

    def test_slices_reach_the_smallest_size_that_is_allowed(self) -> None:
        rng = np.random.default_rng(5)
        table, labels = table_of(1000, rng)
        table["lot"] = ["bad"] * 12 + ["good"] * 988
        errors = np.arange(1000) < 11
        assert all(s.size >= 20 for s in search(table, errors, labels))
        assert search(table, errors, labels, SliceSettings(min_size=10))[0].name == "lot = bad"

    def test_no_error_or_nothing_but_errors_has_no_slice(self) -> None:
        table, labels = table_of(100, np.random.default_rng(0))
        assert search(table, np.zeros(100, dtype=bool), labels) == []
        assert search(table, np.ones(100, dtype=bool), labels) == []

    def test_table_of_odd_columns_is_searched(self) -> None:
        """Missing values, constants, booleans, numbers stored as objects, infinities, dates, a column per sample."""
        rng = np.random.default_rng(6)
        _, labels = table_of(400, rng)
        gaps = rng.random(400) < 0.3
        table = pd.DataFrame(
            {
                "gaps": np.where(gaps, np.nan, rng.normal(size=400)),
                "nothing": [None] * 400,
                "constant": 1.0,
                "flag": rng.random(400) < 0.2,
                "mixed": [3 if r % 3 else "three" for r in range(400)],
                "endless": np.where(rng.random(400) < 0.1, np.inf, 1.5),
                "day": pd.date_range("2020-01-01", periods=400),
                "own": [f"file{r}" for r in range(400)],
                "coded": np.where(gaps, np.nan, rng.choice([1.0, 2.0], 400)),
            }
        )
        errors = rng.random(400) < np.where(table["flag"], 0.7, 0.05)
        (found,) = search(table, errors, labels)
        assert found.conditions == (Condition("flag", "=", "True"),)
        assert (members(found, table, labels) == table["flag"].to_numpy()).all()

    def test_whole_number_codes_with_gaps_keep_their_name(self) -> None:
        rng = np.random.default_rng(7)
        table, labels = table_of(600, rng)
        table["camera"] = np.where(rng.random(600) < 0.2, np.nan, table["camera"])
        errors = rng.random(600) < np.where(table["camera"] == 2, 0.6, 0.05)
        assert search(table, errors, labels)[0].name == "camera = 2"

    def test_large_whole_numbers_are_told_apart_and_written_in_full(self) -> None:
        rng = np.random.default_rng(0)
        lots = np.resize([20240115.0, 20240116.0, 20240122.0, 20240131.0], 400)
        errors = rng.random(400) < np.where(lots == 20240122, 0.6, 0.05)
        (found,) = search(pd.DataFrame({"lot": lots}), errors, ["c1"] * 400)
        assert (found.name, found.size) == ("lot = 20240122", 100)
        assert condition_name(Condition("lot", ">=", 20240122.0), CLASSES) == "lot >= 20240122"

    def test_large_numbers_that_are_close_together_are_cut_where_they_change(self) -> None:
        rng = np.random.default_rng(0)
        day = np.resize(np.arange(20240101.0, 20240131), 600)
        last = 20240128
        errors = rng.random(600) < np.where(day >= last, 0.6, 0.05)
        found = search(pd.DataFrame({"day": day}), errors, ["c1"] * 600)
        assert [(f.name, f.size) for f in found] == [(f"day >= {last}", int((day >= last).sum()))]

    def test_large_whole_number_in_short_as_it_was_kept_before_holds_what_it_held(self) -> None:
        table = pd.DataFrame({"lot": [2024001.0, 2024002.0, 2025001.0, np.nan]})
        before = a_slice(Condition("lot", "=", "2.024e+06"))
        assert members(before, table, ["c1"] * 4).tolist() == [True, True, False, False]

    def test_lengths_that_differ_are_refused(self) -> None:
        table, labels = table_of(50, np.random.default_rng(0))
        with pytest.raises(RecordError, match=r"one error, sample id and label a row of the table \(50 rows\)"):
            search(table, np.zeros(49, dtype=bool), labels)

    def test_looks_of_other_rows_are_refused(self) -> None:
        table, labels = table_of(50, np.random.default_rng(0))
        with pytest.raises(RecordError, match=r"one row of features a row of the table \(50\), got 49"):
            search(table, np.arange(50) < 9, labels, looks=np.zeros((49, 3), dtype=np.float32))

    def test_same_input_gives_the_same_slices(self) -> None:
        rng = np.random.default_rng(8)
        table, labels = table_of(800, rng)
        errors = rng.random(800) < np.where(table["p1"] > 1, 0.5, 0.1)
        assert search(table, errors, labels) == search(table, errors, labels)

    def test_ten_thousand_rows_take_a_few_seconds(self) -> None:
        rng = np.random.default_rng(9)
        table, labels = table_of(10_000, rng, properties=8)
        errors = rng.random(10_000) < np.where(table["p1"] > 1.5, 0.3, 0.1)
        started = time.process_time()
        found = search(table, errors, labels)
        assert found[0].conditions[0].field == "p1"
        assert time.process_time() - started < 15


class TestDoubts:
    """An image counts as far as its label is doubted, not only where it is wrong."""

    @pytest.fixture
    def blurred(self) -> tuple[pd.DataFrame, list[str], np.ndarray]:
        """Of 1,200 images 60 from one camera, whose labels are doubted more; few of them are wrong."""
        rng = np.random.default_rng(21)
        table, labels = table_of(1200, rng)
        table["camera"] = np.where(np.arange(1200) < 60, 9, table["camera"])
        return table, labels, np.where(table["camera"] == 9, rng.beta(5, 6, 1200), rng.beta(1, 3, 1200))

    def test_slice_is_found_that_errors_alone_cannot_tell_from_chance(
        self, blurred: tuple[pd.DataFrame, list[str], np.ndarray]
    ) -> None:
        table, labels, doubts = blurred
        errors = doubts > 0.6
        assert search(table, errors, labels) == []
        (found,) = search(table, errors, labels, doubts=doubts)
        assert found.name == "camera = 9"
        assert (found.errors, found.size) == (errors[:60].sum(), 60)

    def test_slice_that_is_doubted_but_not_wrong_is_no_weakness(
        self, blurred: tuple[pd.DataFrame, list[str], np.ndarray]
    ) -> None:
        table, labels, doubts = blurred
        doubts = np.where(np.arange(1200) < 60, 0.59, doubts)
        assert search(table, doubts > 0.6, labels, doubts=doubts) == []

    def test_of_many_images_the_smallest_doubts_count_as_none(
        self, blurred: tuple[pd.DataFrame, list[str], np.ndarray], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table, labels, doubts = blurred
        monkeypatch.setattr(slice_search, "_WORK_OF_LOSSES", 3e6)
        assert [s.name for s in search(table, doubts > 0.6, labels, doubts=doubts)] == ["camera = 9"]

    def test_errors_doubted_by_one_are_errors_alone(self) -> None:
        rng = np.random.default_rng(21)
        table, labels = table_of(900, rng)
        looks = rng.normal(size=(900, 4)).astype(np.float32)
        errors = rng.random(900) < np.where(table["p1"] > 1, 0.5, 0.1)
        plain = search(table, errors, labels, looks=looks)
        assert len(plain) == 1
        assert search(table, errors, labels, looks=looks, doubts=errors.astype(float)) == plain

    @pytest.mark.filterwarnings("error")
    def test_errors_of_which_nothing_is_doubted_are_searched(self) -> None:
        rng = np.random.default_rng(22)
        table, labels = table_of(900, rng)
        looks = rng.normal(size=(900, 4)).astype(np.float32)
        errors = rng.random(900) < np.where(table["p1"] > 1, 0.6, 0.1)
        assert search(table, errors, labels, looks=looks, doubts=np.zeros(900)) == search(table, errors, labels)

    def test_words_take_the_mean_of_error_and_doubt_looks_an_error_by_its_doubt_classes_errors(self) -> None:
        losses = slices._losses(np.array([True, True, False]), np.array([1.0, 0.5, 0.25]))
        assert losses["words"].tolist() == [1.0, 0.75, 0.125]
        assert losses["looks"].tolist() == [1.0, 0.5, 0.0]
        assert losses["class"].tolist() == [1.0, 1.0, 0.0]

    def test_doubts_at_random_have_a_slice_in_at_most_five_of_a_hundred_runs(self) -> None:
        with_any = 0
        for seed in range(100):
            rng = np.random.default_rng(3000 + seed)
            table, labels = table_of(300, rng, properties=2)
            doubts = rng.beta(1, 4, 300)
            with_any += bool(search(table, doubts > 0.5, labels, doubts=doubts))
        assert with_any <= 5

    def test_doubts_of_other_rows_or_beyond_one_are_refused(self) -> None:
        table, labels = table_of(50, np.random.default_rng(0))
        for doubts in (np.zeros(49), np.full(50, 1.5), np.full(50, np.nan)):
            with pytest.raises(RecordError, match="doubts must be 50 numbers from 0 to 1"):
                search(table, np.arange(50) < 9, labels, doubts=doubts)


class TestTable:
    """Metadata of samples beside what was measured."""

    @staticmethod
    def table(
        *metadata: dict[str, str | float | None], ignore: tuple[str, ...] = (), asked: tuple[Slice, ...] = ()
    ) -> pd.DataFrame:
        samples = [Sample(f"s{n}", f"{n}.png", Path(f"{n}.png"), "train", None, m) for n, m in enumerate(metadata)]
        measured = pd.DataFrame({"width": np.arange(len(samples)) / 10}, index=[s.id for s in samples])
        return slice_table(samples, measured, ignore, asked)

    def test_what_a_slice_speaks_of_is_there_though_it_is_to_be_ignored(self) -> None:
        one, two = Condition("camera", "=", "k1"), Condition("width (given)", "=", "7")
        asked = Slice("camera = k1", (one, two), (), 0, 0, 0.0, (0.0, 1.0), 0.0, 1.0)
        row: dict[str, str | float | None] = {"camera": "k1", "width": "7", "site": "s"}
        table = self.table(row, row, ignore=("camera", "width", "site"), asked=(asked,))
        assert list(table) == ["camera", "width (given)", "width"]
        assert table["camera"].tolist() == ["k1", "k1"]

    def test_column_of_numbers_in_one_import_and_text_in_another_is_text(self) -> None:
        table = self.table({"lot": 12.0}, {"lot": "12"}, {"lot": "A1"}, {"lot": None}, {"lot": "A1"})
        assert table["lot"].tolist()[:3] == ["12", "12", "A1"]
        assert table["lot"].isna().tolist() == [False, False, False, True, False]

    def test_values_of_several_lines_stay_on_one_in_a_name_and_long_ones_are_cut(self) -> None:
        long, other = ("x" * 90 + end for end in "ab")
        names = [condition_name(Condition("note", "=", v), CLASSES) for v in ("one\ntwo\x1b[31m", long, other)]
        assert names[0] == r"note = one\ntwo\x1b[31m"
        assert len({*names}) == 3
        assert max(map(len, names)) < 70

    def test_column_named_like_what_is_measured_gets_a_name_of_its_own(self) -> None:
        row: dict[str, str | float | None] = {"width": 7.0, "class": "a", "looks": "b", "camera": "c"}
        table = self.table(row, row)
        assert list(table) == ["width (given)", "class (given)", "looks (given)", "camera", "width"]
        assert table["width (given)"].tolist() == [7, 7]
        assert table["width"].tolist() == [0, 0.1]
        for ignored in ("width", "width (given)"):
            assert list(self.table(row, row, ignore=(ignored, "class", "looks"))) == ["camera", "width"]

    def test_columns_that_would_get_the_same_name_stay_two(self) -> None:
        table = self.table({"width": 1.0, "width (given)": 2.0})
        assert list(table) == ["width (given)", "width (given) (given)", "width"]

    def test_text_that_names_single_samples_is_left_out_and_of_many_values_the_frequent_are_searched(self) -> None:
        rng = np.random.default_rng(0)
        cameras = np.where(np.arange(1200) < 30, 7, np.arange(1200) % 60)
        errors = rng.random(1200) < np.where(cameras == 7, 0.8, 0.05)
        table = self.table(*[{"camera": f"k{c}", "note": f"n{n}"} for n, c in enumerate(cameras)])
        assert list(table) == ["camera", "width"]
        (found,) = search(table, errors, ["c1", "c2"] * 600)
        assert found.name == "camera = k7"

    def test_column_named_like_what_is_measured_is_searched(self) -> None:
        rng = np.random.default_rng(0)
        given = np.resize([1.0, 2.0, 3.0, 4.0], 400)
        errors = rng.random(400) < np.where(given == 3, 0.6, 0.05)
        (found,) = search(self.table(*[{"width": w} for w in given.tolist()]), errors, ["c1"] * 400)
        assert (found.name, found.weakness) == ("width (given) = 3", "rare")


class TestMembersAndHoldout:
    def test_members_are_the_rows_that_fulfil_every_condition(self) -> None:
        table = pd.DataFrame({"wafer": ["poly", "poly", "mono", None], "brightness": [0.1, 0.3, 0.1, 0.1]})
        conditions = (Condition("class", "=", "c2"), Condition("wafer", "=", "poly"), Condition("brightness", "<", 0.2))
        found = a_slice(*conditions)
        assert members(found, table, ["c2", "c2", "c2", "c2"]).tolist() == [True, False, False, False]
        assert members(found, table, ["c1", "c2", "c2", "c2"]).tolist() == [False] * 4

    def test_missing_numbers_belong_to_neither_side(self) -> None:
        table = pd.DataFrame({"noise": [np.nan, 0.5]})
        for op in ("<", ">="):
            assert not members(a_slice(Condition("noise", op, 0.2)), table, ["c1", "c1"])[0]  # type: ignore[arg-type]

    def test_what_is_no_number_in_a_column_that_was_of_numbers_belongs_to_neither_side(self) -> None:
        """Rows that came later brought text, and their numbers as text."""
        table = pd.DataFrame({"age": [20.0, 30.0, "unknown", "22", None]})
        young, old = (a_slice(Condition("age", op, 25.0)) for op in ("<", ">="))  # type: ignore[arg-type]
        assert members(young, table, ["c1"] * 5).tolist() == [True, False, False, True, False]
        assert members(old, table, ["c1"] * 5).tolist() == [False, True, False, False, False]

    def test_unknown_column_is_named(self) -> None:
        with pytest.raises(RecordError, match="'lot', which is no column"):
            members(a_slice(Condition("lot", "=", "a")), pd.DataFrame({"x": [1]}), ["c1"])

    def test_holdout_figures_are_filled_and_nothing_else_changes(self) -> None:
        table = pd.DataFrame({"wafer": ["poly"] * 4 + ["mono"] * 4})
        errors = np.array([True, True, False, False, True, True, True, True])
        before = a_slice(Condition("wafer", "=", "poly"))
        (after,) = confirm_slices([before], table, errors, ["c1"] * 8, CLASSES)
        assert (after.holdout_size, after.holdout_error_rate, after.holdout_ci) == (4, 0.5, wilson_interval(2, 4))
        assert (after.error_rate, after.size, after.ci) == (before.error_rate, before.size, before.ci)

    def test_slice_without_holdout_member_has_no_rate(self) -> None:
        table = pd.DataFrame({"wafer": ["mono"]})
        (after,) = confirm_slices([a_slice(Condition("wafer", "=", "poly"))], table, np.array([True]), ["c1"], CLASSES)
        assert (after.holdout_size, after.holdout_error_rate, after.holdout_ci) == (0, None, None)

    def test_class_names_in_place_of_ids_are_refused(self) -> None:
        with pytest.raises(RecordError, match="must be class ids"):
            confirm_slices([], pd.DataFrame({"x": [1]}), np.array([True]), ["defective"], CLASSES)


class TestWords:
    def test_slice_reads_as_a_sentence(self) -> None:
        conditions = (Condition("class", "=", "c2"), Condition("wafer", "=", "poly"), Condition("brightness", "<", 0.2))
        assert words(a_slice(*conditions), CLASSES) == (
            "Images labeled defective with wafer = poly, darker than most: 31% wrong (22% to 41%), elsewhere 9%"
        )
        assert words(a_slice(Condition("p1", ">=", 1.5)), CLASSES).startswith("Images with p1 >= 1.5: 31% wrong")

    @pytest.mark.parametrize(
        ("field", "op", "weakness"),
        [
            ("brightness", "<", "dark"), ("brightness", ">=", "bright"), ("sharpness", "<", "blurred"),
            ("noise", ">=", "noisy"), ("contrast", "<", "low_contrast"), ("highlights", ">=", "glare"),
            ("busyness", ">=", "busy"), ("width", "<", "small"), ("height", "<", "small"), ("sharpness", ">=", "rare"),
            ("wafer", "=", "rare"),
        ],
    )  # fmt: skip
    def test_weakness_follows_from_the_condition(self, field: str, op: str, weakness: str) -> None:
        conditions = [Condition("class", "=", "c2"), Condition(field, op, 1.0)]  # type: ignore[arg-type]
        assert weakness_of(conditions) == weakness


class TestFigures:
    def test_standing_out_grows_with_the_surplus_and_is_signed(self) -> None:
        surplus = np.array([-3.0, 0.0, 1.0, 5.0])
        scores = standing_out(surplus, np.full(4, 2.0))
        assert (np.diff(scores) > 0).all()
        assert scores[0] < 0
        assert scores[1] == 0
