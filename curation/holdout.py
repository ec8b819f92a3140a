"""The labels of the holdout, checked by people who are shown none, and what a model is worth by those that stand then.

Repairing only what the model disputes would flatter it: mistakes of its own that a wrong label hides stay hidden.
So both are looked at, labels that it disputes and labels drawn at random from the others; a label changes only where
two people, who were shown neither label nor suggestion, name the same other class; and figures by the checked labels
are weighted by how many rows each of the two kinds has. Figures by the labels as given stay what they were.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError
from curation.records import (
    SKIPPED,
    SPECIAL_ANSWERS,
    WITHDRAWN,
    CurrentLabel,
    Decision,
    Estimate,
    Interval,
    LabelEvent,
    Verdict,
)

#: Opinions that a label of the holdout takes: two that agree change it, or keep it.
OPINIONS = 2
DRAWS = 4_000
#: What is added to the counts of the changes that may come (the same to each), together.
_PSEUDO = 1.0
_CHANGED = "two people, who were shown no label, named the same class"

Values = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def draw_rows(flagged: Collection[str], others: Collection[str], count: int, *, seed: int) -> list[str]:
    """Which labels of the holdout to check, at most ``count``: half of them flagged, half not, each drawn at random.

    Where there are fewer of one kind, the other kind fills up.

    >>> sorted(draw_rows(["a"], ["b", "c", "d"], 3, seed=0))[0]
    'a'
    """
    rng = random.Random(f"holdout:{seed}")
    few, many = sorted(flagged), sorted(others)
    of_flagged = min(len(few), max(count // 2, count - len(many)))
    chosen = rng.sample(few, of_flagged) + rng.sample(many, min(len(many), count - of_flagged))
    rng.shuffle(chosen)
    return chosen


def agreed(verdicts: Sequence[Verdict]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """By sample, the class that two people or more name, more than name any other, and the verdicts that do.

    Of a person who was asked twice the later answer counts.
    """
    last = {(v.sample_id, v.person): v for v in verdicts if v.answer not in (SKIPPED, WITHDRAWN)}
    named: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for verdict in last.values():
        if verdict.answer not in SPECIAL_ANSWERS:
            named[verdict.sample_id][verdict.answer][verdict.person] = verdict.id
    found = {}
    for sample_id, of_class in named.items():
        ranked = sorted(of_class.items(), key=lambda pair: -len(pair[1]))
        runner_up = len(ranked[1][1]) if len(ranked) > 1 else 0
        if len(ranked[0][1]) >= OPINIONS and len(ranked[0][1]) > runner_up:
            found[sample_id] = (ranked[0][0], tuple(sorted(ranked[0][1].values())))
    return found


def answered(verdicts: Sequence[Verdict]) -> set[str]:
    """Samples that as many people as it takes have answered, whatever they said."""
    people: dict[str, set[str]] = defaultdict(set)
    for verdict in verdicts:
        if verdict.answer not in (SKIPPED, WITHDRAWN):
            people[verdict.sample_id].add(verdict.person)
    return {sample_id for sample_id, said in people.items() if len(said) >= OPINIONS}


def decisions(verdicts: Sequence[Verdict], given: Mapping[str, str | None]) -> list[Decision]:
    """The labels that change; ``given`` maps samples to the class they have now."""
    return [
        Decision(sample_id, "change", class_id, 1.0, cites, _CHANGED)
        for sample_id, (class_id, cites) in sorted(agreed(verdicts).items())
        if given.get(sample_id) not in (None, class_id)
    ]


def as_agreed(
    labels: Mapping[str, CurrentLabel], verdicts: Sequence[Verdict], events: Sequence[LabelEvent]
) -> dict[str, CurrentLabel]:
    """``labels``, with the class that two people agree on where no batch has decided it yet.

    ``verdicts`` are those on the holdout, in classes of now. What was decided by ``events`` on the same verdicts, and
    undone since, stays undone.
    """
    made = {(e.sample_id, e.new, e.cites) for e in events if e.kind == "decision"}
    agreed_now = {
        d.sample_id: replace(labels[d.sample_id], class_id=d.class_id, excluded=False)
        for d in decisions(verdicts, {s: now.class_id for s, now in labels.items()})
        if (d.sample_id, d.class_id, d.cites) not in made
    }
    return {**labels, **agreed_now}


def as_given(
    labels: Mapping[str, CurrentLabel],
    events: Sequence[LabelEvent],
    verdicts: Sequence[Verdict],
    merged: Mapping[str, str],
) -> dict[str, CurrentLabel]:
    """``labels``, with the class that they had before a check changed it; ``merged`` says which classes are others now.

    A change by a check is a decision that cites a verdict on the holdout, also one that was edited since.
    ``verdicts`` are all that there ever were.
    """
    checked = {v.id for v in verdicts if v.mode == "holdout"}
    first: dict[str, str | None] = {}
    for event in events:
        if event.kind == "decision" and checked.intersection(event.cites):
            first.setdefault(event.sample_id, event.old)
    given = {s: replace(labels[s], class_id=merged.get(old or "", old)) for s, old in first.items() if s in labels}
    return {**labels, **given}


@dataclass(frozen=True)
class Check:
    """What a check has found: of the rows of each kind (flagged, others) how many were looked at and how many changed.

    ``wrong`` is how many labels of the whole holdout are wrong, with its 95 % interval; ``None`` before both kinds have
    been looked at (or the one that there is).
    """

    rows: int
    flagged: int
    looked_flagged: int
    looked_others: int
    changed_flagged: int
    changed_others: int
    wrong: Estimate | None

    @property
    def words(self) -> str:
        """In one sentence or two."""
        looked = self.looked_flagged + self.looked_others
        if not looked:
            return f"None of the {self.rows:,} labels of the holdout has been checked yet."
        said = (
            f"{looked:,} of {self.rows:,} labels of the holdout were checked by two people who were shown none: "
            f"wrong were {self.changed_flagged} of {self.looked_flagged} flagged and {self.changed_others} of "
            f"{self.looked_others} others."
        )
        if self.wrong is None or self.wrong.ci is None:
            return f"{said} Check some of both before anything is said of the rest."
        low, high = self.wrong.ci
        return f"{said} About {self.wrong.value:.0f} of all are wrong ({low:.0f} to {high:.0f})."


def check_rows(
    rows: Sequence[str],
    flagged: Collection[str],
    verdicts: Sequence[Verdict],
    given: Mapping[str, CurrentLabel],
    now: Mapping[str, CurrentLabel],
    *,
    seed: int = 0,
) -> Check:
    """The check of these labeled rows of the holdout, by what people said (``verdicts`` on the holdout alone)."""
    changed = changed_rows(rows, given, now)
    looked = answered(verdicts) | changed
    masks = (
        np.array([s in flagged for s in rows], dtype=bool),
        np.array([s in looked for s in rows], dtype=bool),
        np.array([s in changed for s in rows], dtype=bool),
    )
    return check_of(*masks, seed=seed)


def changed_rows(rows: Sequence[str], given: Mapping[str, CurrentLabel], now: Mapping[str, CurrentLabel]) -> set[str]:
    """The rows whose label a check has changed; it stays so where an answer is taken back later."""
    return {s for s in rows if now[s].class_id != given[s].class_id}


def check_of(flagged: Mask, looked: Mask, changed: Mask, *, seed: int = 0) -> Check:
    """Count, and estimate how many labels of all rows are wrong; masks have shape (rows,)."""
    wrong = corrected_total(
        np.zeros(len(flagged), dtype=np.int64), changed.astype(np.int64), flagged, looked, (0, 1), seed
    )
    total = None
    if wrong is not None:
        total = Estimate(float(np.median(wrong)), _middle(wrong))
    return Check(
        len(flagged), int(flagged.sum()), int((looked & flagged).sum()), int((looked & ~flagged).sum()),
        int((changed & flagged).sum()), int((changed & ~flagged).sum()), total,
    )  # fmt: skip


def corrected_total(
    given: Values, now: Values, flagged: Mask, looked: Mask, changes: Sequence[int], seed: int
) -> npt.NDArray[np.float64] | None:
    """Draws of the sum over all rows of a value by the labels that would stand if all were checked, shape (draws,).

    ``given`` and ``now`` (rows,) are the value of each row by the labels as given and as they stand; they differ on
    rows that were looked at alone, by one of ``changes``. Rows that were not looked at change as those of their kind
    (``flagged`` or not) did: with chances drawn from a Dirichlet distribution, of which the counts are what was seen.
    ``None`` where a kind has rows, but none that was looked at. Raises RecordError where the arrays don't fit.
    """
    if not given.shape == now.shape == flagged.shape == looked.shape or given.ndim != 1:
        raise RecordError(
            f"given, now, flagged and looked must all have shape (rows,), got {given.shape}, {now.shape}, "
            f"{flagged.shape} and {looked.shape}"
        )
    if ((given != now) & ~looked).any():
        raise RecordError("a row whose label changed must be among those that were looked at")
    rng = np.random.default_rng(seed)
    total = np.full(DRAWS, float(now.sum()))
    steps = np.array(changes, dtype=np.float64)
    for kind in (flagged, ~flagged):
        seen, unseen = kind & looked, int((kind & ~looked).sum())
        if unseen and not seen.any():
            return None
        if not unseen:
            continue
        came = (now - given)[seen]
        counts = np.array([(came == step).sum() for step in changes]) + _PSEUDO / len(changes)
        chances = rng.dirichlet(counts, size=DRAWS)
        total += rng.multinomial(unseen, chances) @ steps
    return total


def corrected_mean(
    given: Values,
    now: Values,
    flagged: Mask,
    looked: Mask,
    changes: Sequence[int],
    sampled: Interval,
    *,
    seed: int = 0,
) -> Estimate | None:
    """The mean of a value over the rows by checked labels, with its 95 % interval; see ``corrected_total``.

    The interval holds both: that the rows are a sample (``sampled``, the interval of the mean of ``now``), and that not
    all labels were checked. It goes as far as the root of the summed squares of how far both go (Zou and Donner,
    Statistics in Medicine 27, 2008), so where all were checked it is ``sampled``.
    """
    total = corrected_total(given, now, flagged, looked, changes, seed)
    if total is None or not len(given):
        return None
    mean, value = float(now.mean()), float(np.median(total)) / len(given)
    fewest, most = (bound / len(given) for bound in _middle(total))
    below, above = mean - sampled[0], sampled[1] - mean
    more_below, more_above = hypot(below, value - fewest) - below, hypot(above, most - value) - above
    moved = value - mean  # 0 where all were checked, and both bounds are those of `sampled` to the last bit
    return Estimate(value, (sampled[0] + (moved - more_below), sampled[1] + (moved + more_above)))


def _middle(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
