"""What people's verdicts say of the flagger: how often it is right, what it misses, how many labels are still wrong.

What is left to fix is estimated from the random controls, never from the flagger's own opinion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from curation.records import Decision, Estimate, Interval, QueueEntry

DRAWS = 20_000


@dataclass(frozen=True)
class AuditFigures:
    """Fractions, and a number of labels; each ``None`` where nothing is known of it yet."""

    flagger_precision: Estimate | None = None
    flagger_recall: Estimate | None = None
    labels_wrong: Estimate | None = None


def wilson_interval(successes: int, total: int, level: float = 0.95) -> Interval:
    """The score interval of a proportion (Wilson 1927); (0, 1) where ``total`` is 0.

    >>> tuple(round(bound, 4) for bound in wilson_interval(8, 10))
    (0.4902, 0.9433)
    """
    if total == 0:
        return (0.0, 1.0)
    from scipy.special import ndtri

    z = float(ndtri(0.5 + level / 2))
    share = successes / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * np.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return (float(max(0.0, centre - half)), float(min(1.0, centre + half)))


def estimate_audit(
    entries: Sequence[QueueEntry], decisions: Mapping[str, Decision], n_unflagged: int, n_flagged: int
) -> AuditFigures:
    """Precision, recall and labels still wrong after this batch, with 95 % intervals.

    ``decisions`` maps sample ids to what was decided; contested ones count for nothing. ``n_flagged`` and
    ``n_unflagged`` count the labels before the batch. Precision comes from the flagged that were decided (the worst
    first, so it flatters the rest), labels still wrong from the controls for what is not flagged, and from the blind
    and shown for what is; intervals by draws from Jeffreys' posterior of each share.
    """
    flagged = _decided([e for e in entries if e.mode != "control" and e.given is not None], decisions)
    controls = _decided([e for e in entries if e.mode == "control"], decisions)
    if not flagged and not controls:
        return AuditFigures()
    found, missed = sum(flagged), sum(controls)
    precision = Estimate(found / len(flagged), wilson_interval(found, len(flagged))) if flagged else None
    if not controls:
        return AuditFigures(precision)
    rng = np.random.default_rng(0)
    miss_rates = rng.beta(missed + 0.5, len(controls) - missed + 0.5, DRAWS)
    hit_rates = rng.beta(found + 0.5, len(flagged) - found + 0.5, DRAWS)
    left_flagged = max(n_flagged - len(flagged), 0)
    left_unflagged = max(n_unflagged - len(controls), 0)
    wrong = hit_rates * left_flagged + miss_rates * left_unflagged
    point = (found / len(flagged) if flagged else 0.5) * left_flagged + missed / len(controls) * left_unflagged
    recall = hit_rates * n_flagged / np.maximum(hit_rates * n_flagged + miss_rates * n_unflagged, 1e-9)
    return AuditFigures(
        precision,
        Estimate(float(np.median(recall)), _middle(recall)) if flagged else None,
        Estimate(point, _middle(wrong)),
    )


def _decided(entries: Sequence[QueueEntry], decisions: Mapping[str, Decision]) -> list[bool]:
    """For each entry that was decided: was its label wrong?"""
    known = [decisions[e.sample_id] for e in entries if e.sample_id in decisions]
    return [d.outcome == "change" for d in known if d.outcome in ("change", "keep")]


def _middle(draws: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return (float(low), float(high))
