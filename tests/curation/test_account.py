"""What a report advises to do next, and which labels it shows for review."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from curation.account import _worst, advise
from curation.records import Classes
from curation.tracking import Shot


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


def test_labels_to_review_are_those_that_nobody_has_settled() -> None:
    ids = ("asked before", "changed now", "disputed", "kept now", "never asked", "seen by a reviewer")
    samples = [SimpleNamespace(id=name, path=name, file=Path(name)) for name in ids]
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
