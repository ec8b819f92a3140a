"""A slice keeps its name, status and history; what is asked for is counted until it has arrived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from curation.records import Classes, Condition, Slice
from curation.slice_words import words
from curation.tracking import called_now, mark, nearest_unlabeled, review_first, shot_list, start_collecting, track

CLASSES = Classes(("c1", "c2"), ("functional", "defective"))
IDS = [f"s{n}" for n in range(100)]
LABELS = ["c1" if n % 2 else "c2" for n in range(100)]
TABLE = pd.DataFrame({"brightness": np.arange(100) / 100}, index=IDS)
DARK = Condition("brightness", "<", 0.2)


def weak(name: str = "brightness < 0.2", size: int = 20, cut: float = 0.2) -> Slice:
    rate = 0.5
    return Slice(name, (replace(DARK, value=cut),), tuple(IDS[:size]), size, size // 2, rate, (0.3, 0.7), 0.1, 0.001)


def errors_in(rows: int, every: int = 2) -> np.ndarray:
    wrong = np.zeros(100, dtype=bool)
    wrong[:rows:every] = True
    return wrong


@pytest.mark.parametrize(("flagged", "first"), [(6, False), (7, True)])
def test_more_than_a_third_of_labels_flagged_are_reviewed_before_anything_is_tried(flagged: int, first: bool) -> None:
    found = review_first(weak(), {*IDS[:flagged], *IDS[50:]})
    assert (found is not None) is first
    if found is not None:
        assert (found.repair, found.recipe, found.status) == ("review", None, "open")
        assert found.proof.startswith("7 of its 20 labels are flagged")


class Counted(tuple[str, ...]):
    """Sample ids that count how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[str]:
        Counted.times += 1
        return super().__iter__()


class TestTracking:
    @pytest.mark.parametrize("typical", [1, 20])
    def test_samples_are_gone_through_once_for_all_typical_members(self, typical: int) -> None:
        Counted.times = 0
        (kept,) = track(
            [], [replace(weak(), typical=(*IDS[:typical], "gone"))], TABLE, errors_in(20), Counted(IDS), LABELS, 2
        )
        assert kept.typical == tuple(IDS[:typical])
        assert Counted.times == 1

    def test_slice_found_again_keeps_name_status_and_history(self) -> None:
        """Next time the cut lies elsewhere, but most members are the same."""
        (first,) = track([weak()], [], TABLE, errors_in(20), IDS, LABELS, 1)
        accepted = replace(first, status="accepted")
        (again,) = track([weak("brightness < 0.23", 23, 0.23)], [accepted], TABLE, errors_in(20, 4), IDS, LABELS, 2)
        assert (again.name, again.status, again.conditions) == ("brightness < 0.2", "accepted", (DARK,))
        assert (again.size, again.errors) == (20, 5)
        assert again.history == ((1, 20, 0.5), (2, 20, 0.25))

    def test_slice_that_is_weak_no_more_is_fixed_and_comes_last(self) -> None:
        other = replace(weak("x", 50), conditions=(Condition("brightness", ">=", 0.5),), sample_ids=tuple(IDS[50:]))
        wrong = np.zeros(100, dtype=bool)
        wrong[50::2] = True
        found = track([other], [weak()], TABLE, wrong, IDS, LABELS, 2)
        assert [(s.name, s.status) for s in found] == [("x", "open"), ("brightness < 0.2", "fixed")]

    def test_slice_that_is_still_weak_but_not_found_stays_open(self) -> None:
        (kept,) = track([], [weak()], TABLE, errors_in(20, 5), IDS, LABELS, 2)
        assert (kept.status, kept.errors, kept.removable) == ("open", 4, 4.0)

    def test_fixed_slice_that_is_weak_again_is_open_again(self) -> None:
        (again,) = track([weak()], [replace(weak(), status="fixed")], TABLE, errors_in(20), IDS, LABELS, 3)
        assert again.status == "open"

    @pytest.mark.parametrize(("every", "status"), [(2, "open"), (8, "fixed")])
    def test_fixed_slice_that_is_weak_again_within_a_larger_one_is_open_again(self, every: int, status: str) -> None:
        """Where that is more than chance: 3 of 20 are not, where 8 of 80 others are wrong."""
        wrong = errors_in(20, every)
        wrong[21::10] = True
        old = replace(weak(), status="fixed", wanted=20, began=20)
        larger = replace(weak("x", 60), conditions=(Condition("brightness", "<", 0.6),))
        found = track([larger], [old], TABLE, wrong, IDS, LABELS, 3)
        assert [(s.name, s.status) for s in found] == [("x", "open"), (old.name, status)]
        assert found[1].wanted == (20 if status == "fixed" else 0)

    def test_fixed_slice_that_can_not_be_measured_stays_fixed(self) -> None:
        old = replace(weak(), conditions=(Condition("camera", "=", "k"),), status="fixed")
        (kept,) = track([], [old], TABLE, errors_in(20), IDS, LABELS, 3)
        assert (kept.status, kept.errors) == ("fixed", 10)

    def test_slice_that_holds_no_image_any_more_is_fixed_and_gets_no_point_in_its_history(self) -> None:
        """Its class was merged, its images were relabeled or left out."""
        (first,) = track([replace(weak(), conditions=(Condition("class", "=", "c3"), DARK))], [], TABLE, errors_in(20),
                         IDS, LABELS, 1)  # fmt: skip
        (gone,) = track([], [first], TABLE, errors_in(20), IDS, LABELS, 2)
        assert (gone.status, gone.size, gone.errors, gone.removable, gone.sample_ids) == ("fixed", 0, 0, 0.0, ())
        assert gone.history == ((1, 20, 0.5),)
        told = words(gone, Classes(("c3",), ("toad",)))
        assert told == "Images labeled toad darker than most: there are none any more"
        (later,) = track([], [gone], TABLE, errors_in(20), IDS, ["c3"] * 50 + ["c1"] * 50, 3)
        assert (later.status, later.size) == ("open", 20), "they are back"

    @pytest.mark.parametrize(("wrong_there", "status"), [(0, "fixed"), (10, "open")])
    def test_slice_by_looks_whose_image_is_gone_is_measured_on_its_members(self, wrong_there: int, status: str) -> None:
        """The table has the column that it speaks of, empty."""
        looks = Condition("looks like s7", ">=", 0.8, "cells/s7.png")
        old = replace(weak("looks like cells/s7.png, nearest 20%"), conditions=(looks,))
        here = [n for n in range(100) if n != 7]
        wrong = np.zeros(100, dtype=bool)
        wrong[:wrong_there] = wrong[50:54] = True
        table = TABLE.assign(**{"looks like s7": np.nan}).iloc[here]
        (now,) = track([], [old], table, wrong[here], [IDS[n] for n in here], [LABELS[n] for n in here], 2)
        assert (now.name, now.status, now.size) == (old.name, status, 19)
        assert now.errors == max(wrong_there - 1, 0)

    def test_slice_by_looks_found_again_around_another_image_keeps_its_name(self) -> None:
        """Its members are those that are nearest now; where its image is gone, the new one takes its place."""
        first, second = (Condition(f"looks like {s}", ">=", 0.8, f"cells/{s}.png") for s in ("s7", "s11"))
        old = replace(weak("looks like cells/s7.png, nearest 20%"), conditions=(first,), status="accepted")
        new = replace(weak("looks like cells/s11.png, nearest 20%"), conditions=(second,))
        table = TABLE.assign(**{"looks like s7": (100 - np.abs(np.arange(100) - 3)) / 100 - 0.045})
        (again,) = track([new], [old], table, errors_in(20), IDS, LABELS, 2)
        assert (again.name, again.conditions, again.status) == (old.name, (first,), "accepted")
        assert again.sample_ids == tuple(IDS[:19])
        (other,) = track([new], [old], TABLE, errors_in(20), IDS, LABELS, 2)
        assert (other.name, other.conditions, other.status) == (new.name, (second,), "accepted")
        assert other.sample_ids == new.sample_ids

    def test_slice_found_again_by_name_is_not_taken_for_one_that_overlaps_it(self) -> None:
        table = TABLE.assign(contrast=TABLE["brightness"])
        flat = replace(weak("contrast < 0.2", 18), conditions=(Condition("contrast", "<", 0.18),))
        found = track([flat, weak()], [replace(weak(), status="accepted")], table, errors_in(20), IDS, LABELS, 2)
        assert [(s.name, s.status) for s in found] == [("contrast < 0.2", "open"), ("brightness < 0.2", "accepted")]

    @pytest.mark.parametrize("found", [True, False])
    @pytest.mark.parametrize(("began", "now"), [(10, ("open", 0, 0, "")), (11, ("collecting", 10, 11, "collect"))])
    def test_slice_that_is_as_weak_with_all_that_was_asked_for_is_open_again(
        self, found: bool, began: int, now: tuple[object, ...]
    ) -> None:
        old = replace(weak(), status="collecting", repair="collect", proof="Too few.", wanted=10, began=began)
        (again,) = track([weak()] if found else [], [old], TABLE, errors_in(20), IDS, LABELS, 2)
        assert (again.status, again.wanted, again.began, again.repair) == now
        assert bool(again.proof) is (again.status == "collecting")

    @pytest.mark.parametrize(("repair", "now"), [("recipe", ("", "")), ("collect", ("collect", "Kept: +1."))])
    def test_slice_that_is_collected_for_is_not_said_to_be_repaired_by_what_an_earlier_iteration_did(
        self, repair: Literal["recipe", "collect"], now: tuple[str, str]
    ) -> None:
        old = replace(weak(), status="collecting", repair=repair, recipe="dark", proof="Kept: +1.", wanted=50, began=20)
        unknown = replace(old, name="x", conditions=(Condition("camera", "=", "k"),), sample_ids=())
        for again in track([weak()], [old, unknown], TABLE, errors_in(20), IDS, LABELS, 2):
            assert (again.repair, again.proof) == now
            assert (again.recipe, again.status) == (None, "collecting")

    @pytest.mark.parametrize("found", [True, False])
    def test_only_what_was_not_there_before_has_arrived(self, found: bool) -> None:
        """3 had arrived when it had 18 members; of the 20 of now 8 are new, others were relabeled into it, or left."""
        old = replace(weak(), sample_ids=tuple(IDS[:18]), size=18, status="collecting", wanted=30, began=15)
        new = [weak()] if found else []
        (again,) = track(new, [old], TABLE, errors_in(20), IDS, LABELS, 2, [*IDS[8:], "gone"])
        (shot,) = shot_list([again], CLASSES)
        assert (again.status, shot.arrived) == ("collecting", 3 + 8)
        (later,) = track(new, [again], TABLE, errors_in(20), IDS, LABELS, 3, IDS)
        (shot,) = shot_list([later], CLASSES)
        assert shot.arrived == 3 + 8

    def test_slice_that_is_weak_no_more_asks_people_to_collect_no_more(self) -> None:
        old = replace(weak(), status="collecting", repair="collect", proof="Collect more.", wanted=50, began=20)
        (now,) = track([], [old], TABLE, errors_in(0), IDS, LABELS, 2)
        assert (now.status, now.repair, now.proof) == ("fixed", "", "")

    def test_slice_of_a_class_is_called_by_the_name_that_the_class_has_now(self) -> None:
        old = replace(weak("class = broken and brightness < 0.2"), conditions=(Condition("class", "=", "c2"), DARK))
        assert called_now(old, CLASSES).name == "class = defective and brightness < 0.2"
        marked = replace(old, name="class = broken and looks like frame.png, nearest 20% (s7)")
        looks = Condition("looks like s7", ">=", 0.8, "frame.png")
        marked = replace(marked, conditions=(Condition("class", "=", "c2"), looks))
        assert called_now(marked, CLASSES).name == "class = defective and looks like frame.png, nearest 20% (s7)"
        given = replace(weak(), name="as before")
        assert called_now(given, CLASSES) == given

    def test_slices_by_looks_whose_images_are_called_alike_are_told_apart(self) -> None:
        name = "looks like frame.png, nearest 20%"
        old, new = (
            replace(weak(name), conditions=(Condition(f"looks like {s}", ">=", 0.8, "frame.png"),), sample_ids=ids)
            for s, ids in (("s7", tuple(IDS[:20])), ("s91", tuple(IDS[80:])))
        )
        near = np.arange(100) / 100
        table = TABLE.assign(**{"looks like s7": 1 - near, "looks like s91": near})
        found = track([new], [replace(old, status="accepted")], table, errors_in(20), IDS, LABELS, 2)
        assert [(s.name, s.status) for s in found] == [(f"{name} (s91)", "open"), (name, "accepted")]
        again = track([replace(new, name=name)], found, table, errors_in(20), IDS, LABELS, 3)
        assert [(s.name, s.status) for s in again] == [(f"{name} (s91)", "open"), (name, "accepted")]

    def test_another_slice_is_another(self) -> None:
        other = replace(weak("x"), conditions=(Condition("brightness", ">=", 0.8),), sample_ids=tuple(IDS[80:]))
        found = track([other], [weak()], TABLE, errors_in(20), IDS, LABELS, 2)
        assert [s.name for s in found] == ["x", "brightness < 0.2"]


class TestShotList:
    def test_shot_list_says_how_many_more_of_what(self) -> None:
        """40 errors of 80 where comparable images would have 20: twice as many images, 80 more."""
        found = replace(weak(size=80), errors=40, removable=20.0, conditions=(Condition("class", "=", "c2"), DARK))
        asked = start_collecting(found)
        assert (asked.status, asked.wanted, asked.began) == ("collecting", 80, 80)
        (shot,) = shot_list([asked], CLASSES)
        assert shot.words == "about 80 more images labeled defective darker than most (brightness < 0.2)"
        assert not shot.done

    def test_what_has_arrived_is_ticked_off(self) -> None:
        asked = start_collecting(replace(weak(size=80), errors=40, removable=20.0))
        (half,) = shot_list([replace(asked, size=110)], CLASSES)
        assert (half.arrived, half.done) == (30, False)
        assert half.words.startswith("50 more images")
        (whole,) = shot_list([replace(asked, size=160)], CLASSES)
        assert whole.done

    @pytest.mark.parametrize("weak_again", [True, False])
    def test_fixed_slice_that_is_reopened_asks_anew(self, weak_again: bool) -> None:
        """Found weak again, or marked by people."""
        arrived = replace(weak(size=20), status="fixed", wanted=10, began=10, removable=8.0)
        found = track([weak()], [arrived], TABLE, errors_in(20), IDS, LABELS, 3)[0] if weak_again else arrived
        asked = mark(found, "collecting")
        (shot,) = shot_list([asked], CLASSES)
        assert (asked.began, shot.arrived, shot.done) == (20, 0, False)
        assert mark(mark(asked, "open"), "collecting") == asked, "one that was not fixed goes on"

    def test_fixed_slice_asks_for_no_more_and_tells_what_has_arrived(self) -> None:
        asked = replace(start_collecting(replace(weak(size=80), errors=40, removable=20.0)), status="fixed")
        assert shot_list([replace(asked, size=110)], CLASSES) == []
        (whole,) = shot_list([replace(asked, size=160)], CLASSES)
        assert whole.words == "80 images darker than most (brightness < 0.2): arrived"

    def test_open_slice_asks_for_nothing(self) -> None:
        assert shot_list([weak()], CLASSES) == []

    def test_nearest_unlabeled_fulfil_the_conditions_first_and_look_alike(self) -> None:
        features = np.array([[1, 0], [1, 0.1], [-1, 0], [-1, 0.1]], dtype=np.float32)
        inside = np.array([True, True, False, False])
        pool = np.array([[-1, 0], [1, 0], [0.2, 1]], dtype=np.float32)
        near = nearest_unlabeled(
            weak(), features, inside, pool, ["far", "near", "dark"], np.array([False, False, True])
        )
        assert near == ["dark", "near", "far"]
