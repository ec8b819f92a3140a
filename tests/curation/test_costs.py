"""Mistakes in terms of what they cost."""

from __future__ import annotations

from dataclasses import replace

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
    found = measure_costs(predictions("dddfddffff"), predictions("ddffffffff"), labels("ddddffffff"), COSTS, "c2")
    assert found.escapes is not None
    assert found.false_rejects is not None
    assert found.saved is not None
    assert (found.escapes.value, found.false_rejects.value) == (0.25, pytest.approx(1 / 3))
    assert found.cost.value == pytest.approx(5.4)
    assert found.saved.value == pytest.approx(10 - 5.4)
    assert found.saved.ci is not None
    assert found.saved.ci[0] <= found.saved.value <= found.saved.ci[1]


def test_without_a_defective_image_escapes_are_not_known() -> None:
    found = measure_costs(predictions("ffd"), None, labels("fff"), COSTS, "c2")
    assert found.escapes is None
    assert found.saved is None


def test_the_interval_of_one_kind_of_mistake_is_wilsons_at_its_price() -> None:
    """Of 400 images one in ten costs 50, none is a false alarm: 50 times Wilson's 0.0743 to 0.1332."""
    found = measure_costs(predictions("f" * 40 + "d" * 360), None, labels("d" * 400), COSTS, "c2")
    assert found.cost.ci == (pytest.approx(50 * 0.0743, abs=0.01), pytest.approx(50 * 0.1332, abs=0.02))


def test_no_mistake_among_few_images_is_not_free() -> None:
    found = measure_costs(predictions("ddffff"), predictions("ddffff"), labels("ddffff"), COSTS, "c2")
    assert found.cost.ci is not None
    assert (found.cost.value, found.cost.ci[0]) == (0, 0)
    assert found.cost.ci[1] > 10


def test_four_dear_mistakes_fewer_show_no_saving() -> None:
    """A bootstrap would call it shown; McNemar's exact p-value is 0.125."""
    found = measure_costs(predictions("d" * 200), predictions("f" * 4 + "d" * 196), labels("d" * 200), COSTS, "c2")
    assert found.saved is not None
    assert found.saved.ci is not None
    assert found.saved.value == pytest.approx(1)
    assert found.saved.ci[0] < 0 < found.saved.ci[1]


def test_intervals_of_costs_hold_the_truth_and_savings_are_seldom_told_of_equal_models() -> None:
    """300 images, 8 % defective, of which 5 % escape; 3 % of the others are false alarms."""
    rng = np.random.default_rng(0)
    held = claimed = 0
    for _ in range(200):
        truth = rng.random(300) < 0.08
        called = [np.where(truth, rng.random(300) >= 0.05, rng.random(300) < 0.03) for _ in range(2)]
        before, after, right = ("".join(np.where(row, "d", "f")) for row in (*called, truth))
        found = measure_costs(predictions(after), predictions(before), labels(right), COSTS, "c2")
        assert found.cost.ci is not None
        assert found.saved is not None
        assert found.saved.ci is not None
        held += found.cost.ci[0] <= 0.08 * 0.05 * 50 + 0.92 * 0.03 * 2 <= found.cost.ci[1]
        claimed += not found.saved.ci[0] <= 0 <= found.saved.ci[1]
    assert held >= 181  # 95 % of 200, less three standard errors
    assert claimed <= 10


def test_a_label_that_hides_a_defect_weighs_most() -> None:
    hides = Issue("a", "label", 0.1, "", "c1", "c2")
    alarms = Issue("b", "label", 0.1, "", "c2", "c1")
    assert label_weights([hides, alarms], COSTS, "c2") == {"a": 1.0, "b": 0.04}


def test_no_costs_are_set_by_default_and_an_unknown_class_is_refused() -> None:
    assert positive_class(settings_from_dict({}).costs, CLASSES, {}) is None
    assert positive_class(COSTS, CLASSES, {}) == "c2"
    with pytest.raises(ConfigError, match=r"costs\.positive"):
        positive_class(CostSettings("broken"), CLASSES, {})
    with pytest.raises(ConfigError, match=r"costs\.miss"):
        settings_from_dict({"costs": {"positive": "defective", "miss": 0}})


def test_a_class_that_was_merged_stands_for_the_one_that_it_belongs_to() -> None:
    assert positive_class(CostSettings("functional"), CLASSES, {"c1": "c2"}) == "c2"


def test_a_name_of_before_stands_for_the_class_that_had_it() -> None:
    assert positive_class(CostSettings("broken"), replace(CLASSES, former={"broken": "c2"}), {}) == "c2"
