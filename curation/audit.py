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
DRAWS = 20_000

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
    - ``labels_wrong``: still wrong among flagged labels that are not decided, at the rate of the later half of those
      that were (the nearest to them in rank, so rather too many than too few), and among labels that are not flagged,
      at the rate of the controls. The interval is that of draws from Jeffreys' posteriors of both rates.
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

    nearest = flagged[len(flagged) // 2 :]
    in_flagged = left_flagged * (sum(nearest) / len(nearest) if nearest else 0.0)
    in_unflagged = left_unflagged * missed / len(controls)
    rng = np.random.default_rng(0)
    flagged_draws = left_flagged * _jeffreys(sum(nearest), len(nearest), rng)
    unflagged_draws = left_unflagged * _jeffreys(missed, len(controls), rng)
    return AuditFigures(
        precision,
        _recall(found, in_flagged, in_unflagged + missed, flagged_draws, unflagged_draws + missed),
        Estimate(in_flagged + in_unflagged, _middle(flagged_draws + unflagged_draws)),
    )


def is_flagged(entry: QueueEntry) -> bool:
    """Whether people are asked because the flagger doubted the label: no control, not from the pool, not a re-ask."""
    return entry.mode != "control" and entry.given is not None and (entry.mode == "shown" or bool(entry.reason))


def _wrong(entries: Sequence[QueueEntry], decisions: Mapping[str, Decision]) -> list[bool]:
    """For each entry with a label that was decided: was the label wrong?"""
    outcomes = [decisions[e.sample_id].outcome for e in entries if e.given is not None and e.sample_id in decisions]
    return [outcome == "change" for outcome in outcomes if outcome in ("change", "keep")]


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
