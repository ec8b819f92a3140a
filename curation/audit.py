"""What people's decisions say of the flagger: how often it is right, what it misses, how many labels are still wrong.

What is left to fix is estimated from the random controls, never from the flagger's own opinion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from curation.records import Decision, Estimate, Interval, QueueEntry

#: Draws from the posterior of the rates, for intervals of what is computed from two of them.
DRAWS = 8_000

Draws = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AuditFigures:
    """Precision and recall as fractions, labels still wrong as a number; ``None`` where nothing is known of it yet."""

    flagger_precision: Estimate | None = None
    flagger_recall: Estimate | None = None
    labels_wrong: Estimate | None = None


def wilson_interval(successes: int, total: int, level: float = 0.95) -> Interval:
    """The interval of a proportion (Wilson 1927), as fractions; (0, 1) where ``total`` is 0.

    >>> tuple(round(bound, 4) for bound in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    if total <= 0:
        return (0.0, 1.0)
    from statistics import NormalDist

    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == total else centre + half
    return (max(0.0, low), min(1.0, high))


def estimate_audit(
    entries: Sequence[QueueEntry],
    decisions: Mapping[str, Decision],
    n_unflagged: int,
    n_flagged: int,
    *,
    settled_unflagged: int = 0,
    settled_flagged: int = 0,
) -> AuditFigures:
    """Precision, recall and labels still wrong after the batch of ``entries``, each with its 95 % interval.

    ``decisions`` maps sample ids to what was decided: a label was wrong where the outcome is ``change``, right where it
    is ``keep``; other outcomes and unlabeled images count for nothing. ``n_flagged`` and ``n_unflagged`` count the
    labels that the flagger judged; ``settled_*`` those among them that people had decided before this batch.

    - ``flagger_precision``: of the flagged labels that were decided, how many were wrong (Wilson). They are the worst
      ones, so the flagged ones that nobody has seen yet are less often wrong.
    - ``labels_wrong``: still wrong among flagged labels that are not decided, at the rate to which that of the decided
      ones falls with their rank (``rate_beyond``), and among labels that are not flagged, at the rate of the controls.
      The interval is that of draws from the posteriors of both rates (Jeffreys' for the controls).
    - ``flagger_recall``: flagged wrong labels, found or expected, out of all.

    The last two are ``None`` as long as no control is decided, or where flagged labels are left and none was decided.
    """
    flagged = _wrong([e for e in sorted(entries, key=lambda e: e.position) if is_flagged(e)], decisions)
    controls = _wrong([e for e in entries if e.mode == "control"], decisions)
    found, missed = sum(flagged), sum(controls)
    precision = Estimate(found / len(flagged), wilson_interval(found, len(flagged))) if flagged else None
    left_flagged = max(n_flagged - settled_flagged - len(flagged), 0)
    left_unflagged = max(n_unflagged - settled_unflagged - len(controls), 0)
    if not controls or (left_flagged and not flagged):
        return AuditFigures(precision)

    rng = np.random.default_rng(0)
    rate, rates = rate_beyond(flagged, left_flagged, rng)
    in_flagged, in_unflagged = left_flagged * rate, left_unflagged * missed / len(controls)
    flagged_draws, unflagged_draws = left_flagged * rates, left_unflagged * _jeffreys(missed, len(controls), rng)
    return AuditFigures(
        precision,
        _recall(found, in_flagged, in_unflagged + missed, flagged_draws, unflagged_draws + missed),
        Estimate(in_flagged + in_unflagged, _middle(flagged_draws + unflagged_draws)),
    )


def is_flagged(entry: QueueEntry) -> bool:
    """Whether people are asked because the flagger doubted the label: no control, not from the pool, not a re-ask."""
    return entry.mode != "control" and entry.given is not None and (entry.mode == "shown" or bool(entry.reason))


def _wrong(entries: Sequence[QueueEntry], decisions: Mapping[str, Decision]) -> list[bool]:
    """For each entry whose label was decided: was it wrong?"""
    outcomes = [decisions[e.sample_id].outcome for e in entries if e.sample_id in decisions]
    return [outcome == "change" for outcome in outcomes if outcome in ("change", "keep")]


def rate_beyond(wrong: Sequence[bool], beyond: int, rng: np.random.Generator) -> tuple[float, Draws]:
    """How often the next ``beyond`` labels are wrong, when the first ones, worst first, were so: the rate, and draws.

    A logistic trend over the rank that may fall but not rise, with a wide normal prior; draws are from the normal
    distribution about its most probable values (Laplace).
    """
    if not wrong or not beyond:
        return 0.0, np.zeros(DRAWS)
    outcomes = np.array(wrong, dtype=np.float64)
    span = len(wrong) + beyond
    ranks = (np.arange(len(wrong)) + 0.5) / span
    design = np.stack([np.ones(len(wrong)), ranks - ranks.mean()], axis=1)
    most_probable, spread = _logistic_trend(design, outcomes)
    ahead = (len(wrong) + beyond * (np.arange(20) + 0.5) / 20) / span - ranks.mean()
    draws = rng.multivariate_normal(most_probable, spread, size=DRAWS, method="cholesky")
    rates = [_logistic(line[:, :1] + np.minimum(line[:, 1:], 0) * ahead) for line in (most_probable[None], draws)]
    return float(rates[0].mean()), rates[1].mean(axis=1)


def _logistic_trend(design: Draws, outcomes: Draws) -> tuple[Draws, Draws]:
    """Most probable intercept and slope, and their covariance, under normal priors of deviation 3 and 5."""
    precision = np.diag([1 / 3**2, 1 / 5**2])
    line = np.zeros(2)
    for _ in range(30):
        rate = _logistic(design @ line)
        curvature = (design * (rate * (1 - rate))[:, None]).T @ design + precision
        step = np.linalg.solve(curvature, design.T @ (outcomes - rate) - precision @ line)
        line = line + np.clip(step, -2, 2)
    return line, np.linalg.inv(curvature)


def _logistic(values: Draws) -> Draws:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))


def _jeffreys(successes: int, total: int, rng: np.random.Generator) -> Draws:
    """Draws of a rate from Jeffreys' posterior; where none was seen, or all were, the limit itself is among them."""
    draws = rng.beta(successes + 0.5, total - successes + 0.5, DRAWS)
    if total and successes == 0:
        draws[draws <= np.quantile(draws, 0.05)] = 0.0
    if total and successes == total:
        draws[draws >= np.quantile(draws, 0.95)] = 1.0
    return np.asarray(draws, dtype=np.float64)


def _recall(
    found: int, in_flagged: float, in_unflagged: float, flagged_draws: Draws, unflagged_draws: Draws
) -> Estimate | None:
    """Flagged wrong labels out of all; ``None`` where there is no wrong label to be found."""
    caught = found + in_flagged
    if caught + in_unflagged <= 0:
        return None
    draws = (found + flagged_draws) / np.maximum(found + flagged_draws + unflagged_draws, 1e-9)
    low, high = _middle(draws)
    value = caught / (caught + in_unflagged)
    return Estimate(value, (min(low, value), max(high, value)))


def _middle(draws: Draws) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return (float(low), float(high))
