"""Augmented copies are the same however many processes make them, and a dead process hangs nothing."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from curation import copies
from curation.copies import Copy, copy_weights, make_copies, plan_copies, workers_pay
from curation.errors import TrainingError
from curation.records import Augmentation, Sample

Pixels = npt.NDArray[np.uint8]


class Shades:
    """Sample number n is an image of shade n."""

    def pixels(self, samples: Sequence[Sample]) -> Pixels:
        return np.stack([np.full((4, 4, 3), int(s.id), dtype=np.uint8) for s in samples])


def noisy(image: Pixels, seed: int) -> Pixels:
    return np.asarray(image + np.random.default_rng(seed).integers(0, 99, image.shape), dtype=np.uint8)


@dataclass(frozen=True)
class Dying:
    """Ends every process but the one it was made in."""

    made_in: int

    def __call__(self, image: Pixels, seed: int) -> Pixels:
        if os.getpid() != self.made_in:
            os._exit(1)
        return image


SAMPLES = [Sample(str(n), f"{n}.png", Path(f"{n}.png"), "train") for n in range(90)]


def made(planned: list[Copy], workers: int) -> tuple[Pixels, list[int]]:
    found = list(make_copies(Shades(), SAMPLES, planned, 5, workers=workers))
    return np.concatenate([i for i, _ in found]), [int(row) for _, rows in found for row in rows]


def test_copies_are_planned_by_recipe_number_and_sample() -> None:
    recipes = [Augmentation("a", ("2", "gone", "1"), 2, noisy), Augmentation("b", ("0",), 1, noisy)]
    assert [(a.name, number, row) for a, number, row in plan_copies(SAMPLES, recipes)] == [
        ("a", 0, 2), ("a", 0, 1), ("a", 1, 2), ("a", 1, 1), ("b", 0, 0),
    ]  # fmt: skip


def test_copies_against_a_weakness_count_a_quarter_of_the_images_at_most_and_images_as_they_are_as_much() -> None:
    many = Augmentation("a", tuple(s.id for s in SAMPLES[:60]), 3, noisy)
    few = Augmentation("b", ("0", "gone"), 2, noisy)
    again = Augmentation("oversampling", ("1", "2"), 2, noisy, as_they_are=True)
    weights = copy_weights(SAMPLES, [many, few, again])
    assert weights.shape == (len(plan_copies(SAMPLES, [many, few, again])),)
    assert weights[:180].sum() == pytest.approx(len(SAMPLES) / 4)
    assert len(set(weights[:180])) == 1
    assert weights[180:].tolist() == [1.0] * 6
    assert copy_weights(SAMPLES, []).shape == (0,)


def test_copies_are_the_same_however_many_processes_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan_copies(SAMPLES, [Augmentation("a", tuple(s.id for s in SAMPLES), 2, noisy)])
    alone, rows = made(planned, 0)
    monkeypatch.setattr(copies, "START_SECONDS", 0.0)
    in_processes, same_rows = made(planned, 2)
    assert rows == same_rows == [*range(90), *range(90)]
    assert np.array_equal(alone, in_processes)
    assert np.array_equal(alone[91], noisy(np.full((4, 4, 3), 1, np.uint8), 5 + 7919 + zlib.crc32(b"1")))


def test_a_worker_that_dies_ends_the_training_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "START_SECONDS", 0.0)
    planned = plan_copies(SAMPLES, [Augmentation("a", tuple(s.id for s in SAMPLES), 2, Dying(os.getpid()))])
    with pytest.raises(TrainingError, match=r"lower slices\.copies"):
        made(planned, 2)


def test_workers_start_only_where_they_save_more_than_they_cost() -> None:
    assert not workers_pay(1.0, 1_000, 1)
    assert not workers_pay(1.0, 1_000, 0)
    assert workers_pay(1.0, 9, 2)
    assert not workers_pay(1.0, 8, 2)


def test_nothing_planned_makes_nothing() -> None:
    assert list(make_copies(Shades(), SAMPLES, [], 0)) == []
