"""What a report advises to do next, and which labels it shows for review."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from curation.account import _examples, _taught_alone, _worst, advise, slice_cards
from curation.records import Classes, Condition, CurrentLabel, Estimate, Predictions, Sample, Slice
from curation.tracking import Shot
from reports.summary import Gain


def test_the_pool_is_told_of_once_however_many_slices_ask_for_images() -> None:
    shots = (
        Shot("dark", "20 more images where it is dark", 20, 0, ("a", "b")),
        Shot("blurred", "30 more blurred images", 30, 5, ("b", "c")),
        Shot("tilted", "20 more tilted images", 20, 20, ("d",)),
        Shot("small", "40 more small images", 40, 0, ("a",)),
    )
    cards: Any = [
        SimpleNamespace(
            slice=SimpleNamespace(name=shot.slice, status="fixed"), words=shot.slice, wanted=shot.wanted,
            arrived=shot.arrived,
        )
        for shot in shots
    ]  # fmt: skip
    account: Any = SimpleNamespace(number=1, checked=None, review={}, shots=shots)
    audit: Any = SimpleNamespace(next=None, flagger_precision=None)
    assert advise(account, None, cards, audit) == (
        "Collect or label: 20 more images where it is dark; 30 more blurred images; and for 1 more weak slice.",
        "3 unlabeled images are in the pool; the nearest to these are asked about first.",
    )


def test_what_people_called_unclear_is_advised_on_in_singular_and_plural() -> None:
    audit: Any = SimpleNamespace(next=None, flagger_precision=None)

    def advice(**review: int) -> list[str]:
        account: Any = SimpleNamespace(number=1, checked=None, review=review, shots=())
        return [line.split(";")[0].split(":")[0] for line in advise(account, None, (), audit)]

    one = ["1 image is contested", "1 image was called ambiguous", "1 image fits none of the classes"]
    two = ["2 images are contested", "2 images were called ambiguous", "2 images fit none of the classes"]
    assert advice(contested=1, ambiguous=1, other=1) == one
    assert advice(contested=2, ambiguous=2, other=2) == two
    assert advice(ambiguous=1) == one[1:2]


def test_a_class_that_the_holdout_lacks_is_named_with_what_to_do() -> None:
    audit: Any = SimpleNamespace(next=None, flagger_precision=None)
    account: Any = SimpleNamespace(number=1, checked=None, review={}, shots=(), trained={})
    fell = Estimate(-0.3, (-0.4, -0.2))
    gain = Gain(fell, fell, Estimate(0.5), 0.01, False, "", rows=72, unjudged=("light blue", "sky"))
    assert advise(account, gain, (), audit) == (
        "No image of the holdout is labeled 'light blue', 'sky', so that it can't tell what such labels are worth: "
        "bring in images of it with split 'holdout', or have people look for it there (`curate holdout --check N`).",
    )


def test_labels_of_classes_that_the_holdout_lacks_decide_where_they_are_most_of_what_changed() -> None:
    samples = [Sample(f"s{n}", f"{n}.png", Path(f"{n}.png"), "train") for n in range(6)]
    before = {s.id: CurrentLabel(s.id, "c1", False, 1) for s in samples[:5]}

    def told(imported: Collection[str] = (), **after: str) -> set[str]:
        labels = before | {s: CurrentLabel(s, c, False, 2) for s, c in after.items()}
        account: Any = SimpleNamespace(samples=samples, before=before, after=labels, imported=imported)
        return _taught_alone(account, {"h0": "c1", "h1": "c2"})

    assert told() == set()
    assert told(s0="c3", s1="c3", s2="c2") == {"c3"}
    assert told(s5="c4") == {"c4"}
    assert told(s0="c3", s1="c2") == set()
    assert told(s0="c3", imported=("s2", "s3")) == set()


def test_slice_on_a_column_that_the_holdout_lacks_has_no_holdout_image() -> None:
    """And one on a column that tells nearly all of the holdout apart is looked up there all the same."""
    held = [
        Sample(f"s{n}", f"{n}.png", Path(f"{n}.png"), "holdout", None, {"lot": "a" if n < 2 else f"b{n}"})
        for n in range(60)
    ]
    ids = tuple(s.id for s in held)
    said = Predictions(ids, ("c1", "c2"), np.tile([0.9, 0.1], (60, 1)), np.full(60, -1))
    weak = tuple(
        Slice(f"{c.field} = {c.value}", (c,), (), 30, 15, 0.5, (0.3, 0.7), 0.1, 0.001)
        for c in (Condition("camera", "=", "new"), Condition("camera", ">=", 3.0), Condition("lot", "=", "a"))
    )
    account: Any = SimpleNamespace(
        scored=SimpleNamespace(slices=weak, quality={}), samples=held, classes=Classes(("c1", "c2"), ("cat", "dog")),
        after={s: SimpleNamespace(class_id="c2") for s in ids}, looks=None, shots=(), folder=Path(),
        properties=pd.DataFrame({"width": np.ones(60)}, index=list(ids)),
    )  # fmt: skip
    cards = slice_cards(account, held, said, said)
    assert [(c.slice.holdout_size, c.slice.holdout_error_rate, c.before is None) for c in cards] == [
        (0, None, True),
        (0, None, True),
        (2, 1.0, False),
    ]


def test_examples_of_a_slice_are_not_what_was_put_right_in_the_iteration() -> None:
    samples = [Sample(f"s{n}", f"{n}.png", Path(f"{n}.png"), "train") for n in range(8)]
    ids = tuple(s.id for s in samples)
    said = Predictions(ids, ("c1", "c2"), np.tile([0.9, 0.1], (8, 1)), np.full(8, -1))
    scored = SimpleNamespace(quality={s: n / 10 for n, s in enumerate(ids)}, predictions=said)
    before = {s: CurrentLabel(s, "c2", False, 1) for s in ids}
    account: Any = SimpleNamespace(
        scored=scored, samples=samples, classes=Classes(("c1", "c2"), ("cat", "dog")), before=before,
        after=before | {s: CurrentLabel(s, "c1", False, 2) for s in ids[:3]},
    )  # fmt: skip
    weak = Slice("class = dog", (Condition("class", "=", "c2"),), ids, 8, 4, 0.5, (0.3, 0.7), 0.1, 0.001)
    shown: Any = scored
    assert [card.sample_id for card in _examples(account, shown, weak)] == list(ids[3:])
    assert [card.sample_id for card in _examples(account, shown, replace(weak, sample_ids=ids[:2]))] == list(ids[:2])


def test_labels_to_review_are_those_that_nobody_has_settled() -> None:
    ids = ("asked before", "changed now", "disputed", "kept now", "never asked", "seen by a reviewer")
    samples = [Sample(name, name, Path(name), "train") for name in ids]
    issues = [SimpleNamespace(kind="label", sample_id=name, reason="", suggested="c1") for name in ids]
    decided = (("changed now", "change"), ("disputed", "contested"), ("kept now", "keep"))
    account: Any = SimpleNamespace(
        classes=Classes(("c1",), ("cat",)), samples=samples, before={}, after={},
        scored=SimpleNamespace(issues=issues, quality={}),
        review={
            "decisions": [{"sample_id": name, "outcome": outcome} for name, outcome in decided],
            "reviewers_decisions": [{"sample_id": "seen by a reviewer", "outcome": "keep"}],
        },
    )  # fmt: skip
    assert [card.sample_id for card in _worst(account, {"asked before"})] == ["disputed", "never asked"]
