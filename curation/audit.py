"""What people's decisions say of the flagger: how often it is right, what it misses, how many labels are still wrong.

What is left to fix is estimated from what people said, of the controls above all, never from the flagger's own opinion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation.evidence import Answers, Beliefs
from curation.records import SKIPPED, WITHDRAWN, Decision, Estimate, Interval, QueueEntry, Verdict

Draws = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_Z = 1.959964
#: Reviewing pays while a review puts so many labels right; chosen by simulated projects (benchmarks/proof.py).
LEAST_YIELD = 0.05
#: Which middle share of what is believed is told as a 95 % interval. Priors serve images of every kind, so they are
#: wider than any needs: so much of the draws held the truth of 2,000 simulated projects in 93 to 96 % (docs/log.md).
BELIEVED = 0.9


def wilson_interval(successes: float, total: float, level: float = 0.95) -> Interval:
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


def flagger_precision(entries: Sequence[QueueEntry], decisions: Mapping[str, Decision]) -> Estimate | None:
    """Of the flagged labels of a batch that were decided, how many were wrong (Wilson); ``None`` where none was.

    ``decisions`` maps sample ids to what was decided: a label was wrong where the outcome is ``change``, right where it
    is ``keep``; other outcomes and unlabeled images count for nothing. These are the worst ones, so the flagged ones
    that nobody has seen yet are less often wrong.
    """
    wrong = _wrong([e for e in entries if is_flagged(e)], decisions)
    return _share_wrong(wrong) if wrong else None


def still_wrong(
    beliefs: Beliefs, answers: Answers, changed: Mask, doubt: Draws, flagged: Mask, *, seed: int = 0
) -> Estimate:
    """How many labels are wrong now (median), with its 95 % interval.

    ``changed`` (reviewed labels,) tells which labels of ``answers`` were changed to the class that most others named;
    ``doubt`` and ``flagged`` are those of the labels that nobody has reviewed. Of the reviewed ones some are wrong as
    well, because people err.
    """
    rng = np.random.default_rng(seed)
    counts = beliefs.wrong_counts(doubt, flagged, rng)
    for place, chances in beliefs.weigh_draws(answers):
        wrong = 1 - np.where(changed[place], chances[:, :, 1], chances[:, :, 0])
        counts += (rng.random(wrong.shape) < wrong).sum(axis=1)
    return Estimate(float(np.median(counts)), _middle(counts))


def recall(beliefs: Beliefs, answers: Answers, doubt: Draws, flagged: Mask, *, seed: int = 0) -> Estimate | None:
    """Which share of the wrong labels, reviewed (``answers``) or not, was flagged; ``None`` where none is wrong.

    ``doubt`` and ``flagged`` are those of the labels that nobody has reviewed.
    """
    rng = np.random.default_rng(seed)
    caught, missed = np.zeros(len(beliefs.draws)), np.zeros(len(beliefs.draws))
    for place, chances in beliefs.weigh_draws(answers):
        wrong = rng.random(chances.shape[:2]) < 1 - chances[:, :, 0]
        caught += (wrong & answers.flagged[place]).sum(axis=1)
        missed += (wrong & ~answers.flagged[place]).sum(axis=1)
    caught += beliefs.wrong_counts(doubt[flagged], flagged[flagged], rng)
    missed += beliefs.wrong_counts(doubt[~flagged], flagged[~flagged], rng)
    some = caught + missed > 0
    if not some.any():
        return None
    shares = caught[some] / (caught + missed)[some]
    return Estimate(float(np.median(shares)), _middle(shares))


# --- where the flagger is right, and whom it sways


def precision_by_rank(
    entries: Sequence[QueueEntry], decisions: Mapping[str, Decision], parts: int = 4
) -> tuple[tuple[str, Estimate], ...]:
    """How many flagged labels were wrong in each of ``parts`` equal parts of the batch, the worst first.

    Names are ranges of places among the flagged labels that were decided, from 1. Parts that would hold fewer than
    five are not made.
    """
    wrong = _wrong([e for e in sorted(entries, key=lambda e: e.position) if is_flagged(e)], decisions)
    count = min(parts, len(wrong) // 5)
    edges = [round(number * len(wrong) / count) for number in range(count + 1)] if count else []
    return tuple(
        (f"{start + 1} to {end}", _share_wrong(wrong[start:end]))
        for start, end in pairwise(edges)
    )  # fmt: skip


def precision_by_class(
    entries: Sequence[QueueEntry], decisions: Mapping[str, Decision]
) -> tuple[tuple[str, Estimate], ...]:
    """How many flagged labels of each given class were wrong: class id and share, the most often wrong first."""
    by_class: dict[str, list[QueueEntry]] = {}
    for entry in entries:
        if is_flagged(entry) and entry.given:
            by_class.setdefault(entry.given, []).append(entry)
    found = [(c, wrong) for c, own in by_class.items() if (wrong := _wrong(own, decisions))]
    return tuple(sorted(((c, _share_wrong(w)) for c, w in found), key=lambda pair: (-pair[1].value, pair[0])))


def _share_wrong(wrong: Sequence[bool]) -> Estimate:
    return Estimate(sum(wrong) / len(wrong), wilson_interval(sum(wrong), len(wrong)))


def sway(entries: Sequence[QueueEntry], verdicts: Sequence[Verdict]) -> Estimate | None:
    """How much more often people name the suggested class where it is shown to them than where it is not.

    A difference of shares with its 95 % interval (Newcombe, Statistics in Medicine 17, 1998, method 10); which flagged
    labels are asked about blind is drawn at random, so that it is the showing that makes it. ``None`` with fewer than
    ten answers of either kind.
    """
    suggested = {e.key: e for e in entries if e.suggested is not None and is_flagged(e)}
    counts = {"shown": [0, 0], "blind": [0, 0]}
    for verdict in verdicts:
        entry = suggested.get(verdict.key)
        if entry is not None and entry.mode in counts and verdict.answer not in (SKIPPED, WITHDRAWN):
            counts[entry.mode][0] += verdict.answer == entry.suggested
            counts[entry.mode][1] += 1
    (yes, shown), (also, blind) = counts["shown"], counts["blind"]
    if min(shown, blind) < 10:
        return None
    p, q = yes / shown, also / blind
    (p_low, p_high), (q_low, q_high) = wilson_interval(yes, shown), wilson_interval(also, blind)
    return Estimate(
        p - q,
        (
            p - q - float(np.hypot(p - p_low, q_high - q)),
            p - q + float(np.hypot(p_high - p, q - q_low)),
        ),
    )  # fmt: skip


# --- what comes next


@dataclass(frozen=True)
class Outlook:
    """What so many more reviews would bring: wrong labels found and put right, and accuracy (a fraction) gained.

    Medians, as that of ``still_wrong``, with their 95 % intervals.
    """

    reviews: int
    errors_found: Estimate
    gain: Estimate | None = None

    @property
    def words(self) -> str:
        """How many labels they put right.

        >>> Outlook(50, Estimate(1.2)).words, Outlook(50, Estimate(20.4)).words
        ('put about 1 label right', 'put about 20 labels right')
        """
        count = f"{self.errors_found.value:.0f}"
        return f"put about {count} {'label' if count == '1' else 'labels'} right"


@dataclass(frozen=True)
class Recommendation:
    """What to do next: ``review`` (``reviews`` more), ``slices``, ``collect`` or ``stop``; and why, in words."""

    action: Literal["review", "slices", "collect", "stop"]
    reviews: int
    words: str


def look_ahead(
    beliefs: Beliefs,
    doubt: Draws,
    flagged: Mask,
    *,
    sizes: Sequence[int] = (50, 100, 200),
    gained: Estimate | None = None,
    repaired: int = 0,
    seed: int = 0,
    quality: Draws | None = None,
) -> tuple[Outlook, ...]:
    """What the next reviews would bring, worst labels first, for each of ``sizes`` that there are labels for.

    ``doubt`` and ``flagged`` are those of the labels that nobody has reviewed. ``gained`` is the accuracy that
    ``repaired`` changed labels have brought so far: the next ones are taken to be worth as much each, so that this
    interval is as wide as that of the gain. ``quality`` is what the queue goes by, lowest first; else it is the doubt.
    """
    order = _worst_first(doubt, flagged, quality)
    rng = np.random.default_rng(seed)
    ahead = []
    for size in dict.fromkeys(min(s, len(doubt)) for s in sizes):
        if not size:
            continue
        found = _found(beliefs, doubt, flagged, order[:size], seed)
        worth = None
        if gained is not None and gained.ci is not None and repaired > 0:
            spread = (gained.ci[1] - gained.ci[0]) / (2 * _Z)
            worth = _central(found * rng.normal(gained.value, spread, size=len(found)) / repaired)
        ahead.append(Outlook(size, _central(found), worth))
    return tuple(ahead)


def _found(beliefs: Beliefs, doubt: Draws, flagged: Mask, asked: npt.NDArray[np.int64], seed: int) -> Draws:
    """How many labels reviews of those ``asked`` (places) about put right, by every draw.

    The same for the same ones whatever else is looked at, and no more than are wrong by that draw of ``still_wrong``.
    """
    unseen = beliefs.wrong_counts(doubt, flagged, np.random.default_rng(seed))
    wrong = beliefs.wrong_counts(doubt[asked], flagged[asked], np.random.default_rng((seed, len(asked))))
    return np.asarray(np.minimum(wrong, unseen) * beliefs.finds)


def recommend(
    beliefs: Beliefs,
    answers: Answers,
    doubt: Draws,
    flagged: Mask,
    *,
    weak_slices: int = 0,
    least_yield: float = LEAST_YIELD,
    batch: int = 50,
    weights: Draws | None = None,
    quality: Draws | None = None,
    seed: int = 0,
) -> Recommendation:
    """Go on reviewing or not.

    Reviewing pays while one review of the next ``batch`` puts at least ``least_yield`` labels right, by the beliefs.
    How many: as many as keep above that. Else weak slices are worth the time, where there are any; else more images
    are, where labels are still wrong that no reviewing in this order would find; else nothing is. ``weights`` (by
    label, 1 for the dearest kind of mistake) make a review's worth what it may save. ``quality`` as in ``look_ahead``,
    which the words are from, so that they say the same.
    """
    rates = beliefs.wrong_rate(doubt, flagged) * float(beliefs.finds.mean())
    stakes = rates if weights is None else rates * weights
    order = _worst_first(doubt, flagged, quality) if weights is None else np.argsort(-stakes, kind="stable")
    rates, stakes = rates[order], stakes[order]
    means = [float(part.mean()) for part in np.split(stakes, range(batch, len(stakes), batch)) if len(part)]
    worth = next((number for number, mean in enumerate(means) if mean < least_yield), len(means))
    reviews = min(worth * batch, len(rates))
    if reviews:
        whole, first = (
            Outlook(size, _central(_found(beliefs, doubt, flagged, order[:size], seed))) for size in (reviews, batch)
        )
        words = f"Go on with {reviews} more reviews: they should {whole.words}"
        if reviews > batch:
            words += f", about {first.errors_found.value:.0f} of them with the next {batch}"
        return Recommendation("review", reviews, f"{words}.")
    now = (
        f"{float(rates[:batch].mean()):.0%} of the next {min(batch, len(rates))} reviews would put a label right"
        if means
        else ""
    )
    why = f"Reviewing pays little now ({now})" if now else "Every label was reviewed"
    if weak_slices:
        return Recommendation("slices", 0, f"{why}; turn to the weak slices.")
    left = float(beliefs.wrong_rate(doubt, flagged).sum())
    if left >= 0.02 * max(len(doubt) + len(answers), 1):
        return Recommendation("collect", 0, f"{why}, though about {left:.0f} labels are wrong; collect more images.")
    return Recommendation("stop", 0, f"{why}; the labels are good enough to stop.")


def _worst_first(doubt: Draws, flagged: Mask, quality: Draws | None) -> npt.NDArray[np.int64]:
    """The order in which labels are asked about: flagged ones first."""
    return np.asarray(np.lexsort((-doubt if quality is None else quality, ~flagged)), dtype=np.int64)


def is_flagged(entry: QueueEntry) -> bool:
    """Whether people are asked because the flagger doubted the label: no control, not from the pool, not a re-ask."""
    return entry.mode != "control" and entry.given is not None and (entry.mode == "shown" or bool(entry.reason))


def _wrong(entries: Sequence[QueueEntry], decisions: Mapping[str, Decision]) -> list[bool]:
    """For each entry whose label was decided: was it wrong?"""
    outcomes = [decisions[e.sample_id].outcome for e in entries if e.sample_id in decisions]
    return [outcome == "change" for outcome in outcomes if outcome in ("change", "keep")]


def _central(draws: Draws) -> Estimate:
    return Estimate(float(np.median(draws)), _middle(draws))


def _middle(draws: Draws) -> Interval:
    low, high = np.quantile(draws, [0.5 - BELIEVED / 2, 0.5 + BELIEVED / 2])
    return (float(low), float(high))
