"""Mistakes in terms of what they cost."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from curation.config import CostSettings, settings_from_dict
from curation.costs import label_weights, measure_costs, positive_class
from curation.errors import ConfigError
from curation.records import Classes, Issue, Predictions

CLASSES = Classes(("c1", "c2"), ("functional", "defective"))
COSTS = CostSettings("defective", miss=50.0, false_alarm=2.0)


def predictions(called: str) -> Predictions:
    """One row a letter: d for defective, f for functional."""
    rows = [[0.2, 0.8] if letter == "d" else [0.9, 0.1] for letter in called]
    return Predictions(
        tuple(f"s{n}" for n in range(len(called))), CLASSES.ids, np.array(rows), np.full(len(called), -1)
    )


def labels(truth: str) -> dict[str, str]:
    return {f"s{n}": "c2" if letter == "d" else "c1" for n, letter in enumerate(truth)}


def test_escapes_false_rejects_and_cost_are_counted() -> None:
    """Of 4 defective 1 escapes, of 6 others 2 are rejected: 50 + 2 * 2 over 10 images; before 2 escaped: 100."""
    found = measure_costs(
        predictions("dddfddffff"), predictions("ddffffffff"), labels("ddddffffff"), COSTS, "c2", seed=0
    )
    assert found.escapes is not None
    assert found.false_rejects is not None
    assert found.saved is not None
    assert (found.escapes.value, found.false_rejects.value) == (0.25, pytest.approx(1 / 3))
    assert found.cost.value == pytest.approx(5.4)
    assert found.saved.value == pytest.approx(10 - 5.4)
    assert found.saved.ci is not None
    assert found.saved.ci[0] <= found.saved.value <= found.saved.ci[1]


def test_without_a_defective_image_escapes_are_not_known() -> None:
    found = measure_costs(predictions("ffd"), None, labels("fff"), COSTS, "c2", seed=0)
    assert found.escapes is None
    assert found.saved is None


def test_intervals_of_costs_are_those_of_images_drawn_again() -> None:
    """Of 400 images one in ten costs 50: by the normal approximation the mean of 5 is told to 15 / 20 * 1.96."""
    found = measure_costs(predictions("f" * 40 + "d" * 360), None, labels("d" * 400), COSTS, "c2", seed=0)
    assert found.cost.ci == (pytest.approx(5 - 1.47, abs=0.15), pytest.approx(5 + 1.47, abs=0.15))


def test_intervals_of_costs_take_no_memory_for_each_image_and_draw() -> None:
    many, same = predictions("fdddd" * 1000), predictions("ddddd" * 1000)
    tracemalloc.start()
    found = measure_costs(many, same, labels("d" * 5000), COSTS, "c2", seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.saved is not None
    assert found.saved.value == pytest.approx(-10)
    assert peak < 10e6


def test_a_label_that_hides_a_defect_weighs_most() -> None:
    hides = Issue("a", "label", 0.1, "", "c1", "c2")
    alarms = Issue("b", "label", 0.1, "", "c2", "c1")
    assert label_weights([hides, alarms], COSTS, "c2") == {"a": 1.0, "b": 0.04}


def test_no_costs_are_set_by_default_and_an_unknown_class_is_refused() -> None:
    assert positive_class(settings_from_dict({}).costs, CLASSES) is None
    assert positive_class(COSTS, CLASSES) == "c2"
    with pytest.raises(ConfigError, match=r"costs\.positive"):
        positive_class(CostSettings("broken"), CLASSES)
    with pytest.raises(ConfigError, match=r"costs\.miss"):
        settings_from_dict({"costs": {"positive": "defective", "miss": 0}})
