"""A loop that is killed, or whose disk fails, wherever that be, ends as the undisturbed one once it goes on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.conftest import Tally
from tests_faults import Outcome, Request, keeper, lay_out, left_behind

pytestmark = pytest.mark.e2e

QUICK, ALL = 8, 100
KINDS = {"kill": "killed (SIGKILL)", "full": "disk full", "read-only": "disk read-only"}


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Request], Outcome]]:
    with keeper() as started:
        yield started


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    lay_out(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(run: Callable[[Request], Outcome], images: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """How many points a run passes, and what it leaves, by the way of training."""
    found = {}
    for method in ("head", "fine-tune"):
        outcome = run(Request(str(images), method=method))
        assert outcome.code == 0, outcome.said
        found[method] = (outcome.points, left_behind(images / "p"))
        shutil.rmtree(images / "p")
    return found


def faults_of(seed: int, points: int) -> list[tuple[str, int]]:
    """One to three faults, each with the point of a run at which it comes."""
    rng = random.Random(seed)
    kinds = rng.choices(list(KINDS), weights=(6, 3, 1), k=rng.choice((1, 1, 2, 3)))
    return [(kind, rng.randint(1, points)) for kind in kinds]


def cut_and_compare(
    seed: int, run: Callable[[Request], Outcome], images: Path, undisturbed: dict[str, Any], tally: Tally, where: str
) -> None:
    method = "fine-tune" if seed % 4 == 3 else "head"
    points, wanted = undisturbed[method]
    came: list[str] = []
    try:
        for kind, point in faults_of(seed, points):
            outcome = run(Request(str(images), kind, point, method))
            if outcome.code == 0:  # a later run may have fewer points than the first
                break
            fault = f"{kind} at point {point} ({outcome.where}): {outcome.said}"
            if kind == "kill":
                assert outcome.code == -9, fault
            else:
                last = outcome.said.strip().splitlines()[-1]
                assert (outcome.code, last[:7]) == (1, "Error: "), fault
                assert "unexpected" not in last, fault
            came.append(kind)
            tally.count(f"{KINDS[kind]}, {where}", injected=1)
        outcome = run(Request(str(images), method=method))
        assert outcome.code == 0, f"seed {seed} does not go on: {outcome.said}"
        found = left_behind(images / "p")
        assert [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)] == [], f"seed {seed}"
        assert (found["chain"], found["half-written"]) == ([], [])
        for kind in came:
            tally.count(f"{KINDS[kind]}, {where}", survived=1)
    finally:
        shutil.rmtree(images / "p", ignore_errors=True)


@pytest.mark.timeout(1800)
def test_eight_seeds_end_as_the_undisturbed_run(
    run: Callable[[Request], Outcome], images: Path, undisturbed: dict[str, Any], tally: Tally
) -> None:
    for seed in range(QUICK):
        cut_and_compare(seed, run, images, undisturbed, tally, "8 seeds")
    tally.whole |= {f"{kind}, 8 seeds" for kind in KINDS.values()}


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_a_hundred_seeds_end_as_the_undisturbed_run(
    run: Callable[[Request], Outcome], images: Path, undisturbed: dict[str, Any], tally: Tally
) -> None:
    for seed in range(QUICK, QUICK + ALL):
        cut_and_compare(seed, run, images, undisturbed, tally, "100 seeds")
    tally.whole |= {f"{kind}, 100 seeds" for kind in KINDS.values()}
