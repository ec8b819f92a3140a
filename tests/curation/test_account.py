"""What a report advises to do next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from curation.account import advise
from curation.tracking import Shot


def test_the_pool_is_told_of_once_however_many_slices_ask_for_images() -> None:
    shots = (
        Shot("dark", "20 more images where it is dark", 20, 0, ("a", "b")),
        Shot("blurred", "30 more blurred images", 30, 5, ("b", "c")),
        Shot("tilted", "20 more tilted images", 20, 20, ("d",)),
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
        "Collect or label: 20 more images where it is dark; 30 more blurred images.",
        "3 unlabeled images are in the pool; the nearest to these are asked about first.",
    )
