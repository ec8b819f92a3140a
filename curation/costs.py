"""What mistakes cost where one class must not be missed: escapes, false rejects, and what a wrong label may cost.

Costs are in whatever unit the user counts in; with none given (``costs.positive`` empty) nothing here is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.config import CostSettings
from curation.errors import ConfigError
from curation.records import Classes, Estimate, Issue, Predictions

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CostFigures:
    """Mistakes on the holdout in terms of what they cost.

    ``escapes`` is the share of images of the class that must not be missed which are called something else,
    ``false_rejects`` the share of other images that are called it; ``None`` where there is no such image. ``cost`` is
    the mean cost an image; ``saved`` how much less that is than before, on the same rows, ``None`` without a before.
    """

    escapes: Estimate | None
    false_rejects: Estimate | None
    cost: Estimate
    saved: Estimate | None = None


def positive_class(settings: CostSettings, classes: Classes, merged: Mapping[str, str]) -> str | None:
    """The id of the class that must not be missed, ``None`` where no costs are set; ConfigError for an unknown one.

    ``merged`` says which classes are others now, by id: one of these stands for what it belongs to.
    """
    if not settings.positive:
        return None
    named = classes.named(settings.positive)
    if named is None:
        raise ConfigError(
            f"setting 'costs.positive' must be a class of this project, got '{settings.positive}'; "
            f"there are {list(classes.names)}"
        )
    return merged.get(named, named)


def measure_costs(
    after: Predictions,
    before: Predictions | None,
    labels: Mapping[str, str],
    settings: CostSettings,
    positive: str,
) -> CostFigures:
    """Escapes, false rejects and cost an image of ``after``, and what it saves against ``before`` on the same rows.

    ``labels`` maps each sample of ``after`` to its class id. Intervals are Wilson's for shares, and what these make
    for costs (``_cost``).
    """
    truth = np.array([labels[s] == positive for s in after.sample_ids], dtype=bool)
    called = np.array([c == positive for c in after.predicted()], dtype=bool)
    mistakes, prices = (truth & ~called, called & ~truth), (settings.miss, settings.false_alarm)
    saved = None
    if before is not None:
        was = np.array([c == positive for c in before.take(after.sample_ids).predicted()], dtype=bool)
        pairs = list(zip((truth & ~was, was & ~truth), mistakes, prices, strict=True))
        saved = _cost(
            [(old & ~new, price) for old, new, price in pairs] + [(new & ~old, -price) for old, new, price in pairs]
        )
    cost = _cost(list(zip(mistakes, prices, strict=True)))
    return CostFigures(_share(~called[truth]), _share(called[~truth]), cost, saved)


def label_weights(issues: Sequence[Issue], settings: CostSettings, positive: str) -> dict[str, float]:
    """What it may cost to leave each flagged label as it is, by sample id: 1 for the dearest kind of mistake.

    A label that hides an image of the positive class teaches to miss it; one that calls another image so teaches false
    alarms; a mistake between other classes costs as little as the cheaper of both.
    """
    dearest = max(settings.miss, settings.false_alarm)
    weights: dict[str, float] = {}
    for issue in issues:
        if issue.suggested == positive and issue.given != positive:
            cost = settings.miss
        elif issue.given == positive and issue.suggested != positive:
            cost = settings.false_alarm
        else:
            cost = min(settings.miss, settings.false_alarm)
        weights[issue.sample_id] = max(weights.get(issue.sample_id, 0.0), cost / dearest)
    return weights


def cost_words(figures: CostFigures, name: str) -> str:
    """Mistakes and what they cost, for people.

    >>> missed = Estimate(0.1, (0.05, 0.2))
    >>> cost_words(CostFigures(missed, None, Estimate(2.0, (1.0, 3.0)), Estimate(0.5, (0.1, 0.9))), "bad")
    "10 % of 'bad' images escape (5 to 20 %). An image costs 2.00 (1.00 to 3.00), 0.50 less than before (0.10 to 0.90)."
    """
    said = []
    for share, words in ((figures.escapes, f"of '{name}' images escape"), (figures.false_rejects, "are false rejects")):
        if share is not None and share.ci is not None:
            of = "" if "escape" in words else "of the others "
            said.append(
                f"{share.value:.0%}"[:-1] + f" % {of}{words} ({100 * share.ci[0]:.0f} to {100 * share.ci[1]:.0f} %)"
            )
    low, high = figures.cost.ci or (figures.cost.value, figures.cost.value)
    cost = f"An image costs {figures.cost.value:.2f} ({low:.2f} to {high:.2f})"
    if figures.saved is not None and figures.saved.ci is not None:
        low, high = figures.saved.ci
        if low <= 0 <= high:
            cost += f"; no change shown ({low:+.2f} to {high:+.2f} saved)"
        else:
            much = abs(figures.saved.value)
            worst, best = sorted((abs(low), abs(high)))
            cost += f", {much:.2f} {'less' if low > 0 else 'more'} than before ({worst:.2f} to {best:.2f})"
    return f"{', '.join(said)}. {cost}." if said else f"{cost}."


def _share(wrong: npt.NDArray[np.bool_]) -> Estimate | None:
    if not len(wrong):
        return None
    return Estimate(float(wrong.mean()), wilson_interval(int(wrong.sum()), len(wrong)))


def _cost(mistakes: Sequence[tuple[Mask, float]]) -> Estimate:
    """The mean cost of rows, of which each kind of mistake has some, (rows,), at its price; below 0 what it saves.

    The interval goes from the mean as far as the root of the summed squares of how far Wilson's interval goes from each
    kind's share, times its price (Zou and Donner, Statistics in Medicine 27, 2008). Costs hang on a handful of dear
    mistakes, of which a bootstrap is too sure: of none it knows nothing.

    >>> [round(bound, 2) for bound in _cost([(np.zeros(40, dtype=bool), 10.0)]).ci]
    [0.0, 0.88]
    """
    value = low = high = 0.0
    for made, price in mistakes:
        share = float(made.mean())
        bounds = sorted(price * bound for bound in wilson_interval(int(made.sum()), len(made)))
        value += price * share
        low += (price * share - bounds[0]) ** 2
        high += (bounds[1] - price * share) ** 2
    return Estimate(value, (value - sqrt(low), value + sqrt(high)))
