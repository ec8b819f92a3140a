"""Several verdicts on an image become one decision, and how reliable each person is (cleanlab's CROWDLAB).

The rules, in this order; "opinions" are one a person, that person's latest, without skipped and withdrawn answers:

1. more than half say ``bad image``: the sample is excluded;
2. more than half say ``ambiguous`` or ``other``: it is ambiguous, its label stands;
3. all name the same class: that class;
4. half or more, but no majority of one kind, name no class: contested;
5. otherwise people disagree about the class. CROWDLAB weighs each person and the model's out-of-sample prediction by
   how often they were right elsewhere; a class with a posterior of 0.5 or more is taken. Where CROWDLAB can't be asked
   (fewer than ten samples with several opinions, or no prediction), the share of opinions has to reach 0.8;
6. else contested: the label stands, and the sample is to be asked again.

CROWDLAB's posterior is a weighted mean, so it is modest: of the disagreements of two real people on one half of
CIFAR-10N none reaches 0.8, and of those that reach 0.5 (every other one) 94 % are decided rightly, where one person
alone is right in 82 % (docs/log.md).

CROWDLAB: Goh, Tkachenko, Mueller, "CROWDLAB: Supervised learning to infer consensus labels and quality scores for data
with multiple annotators", 2022 (arXiv:2210.06812).
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError
from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, SKIPPED, WITHDRAWN, Classes, Decision, Verdict

if TYPE_CHECKING:
    import pandas as pd

#: The posterior that decides, and the share of opinions that does where there is none.
ENOUGH, ENOUGH_OF_PEOPLE = 0.5, 0.8
#: CROWDLAB learns how reliable people are from samples with several opinions; from fewer it learns nothing.
FEWEST_SHARED = 10


def decide(
    verdicts: Sequence[Verdict],
    given: Mapping[str, str | None],
    probabilities: Mapping[str, npt.NDArray[np.float64]] | None,
    classes: Classes,
) -> list[Decision]:
    """One decision a sample with opinions, in the order in which the samples first come up in ``verdicts``.

    ``given`` maps sample ids to their label now (``None``, or missing, for none): a decision for that class is
    ``keep``, for another ``change``. ``probabilities`` maps sample ids to out-of-sample class probabilities, shape
    (classes,), in the order of ``classes``. Confidence is the share of opinions that agree, or CROWDLAB's posterior
    where that decided. Raises RecordError for an answer that is no class and no special answer.
    """
    by_sample: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in opinions(verdicts, classes):
        by_sample[verdict.sample_id].append(verdict)
    clear = {sample_id: _clear_outcome(said) for sample_id, said in by_sample.items()}
    undecided = any(found is None for found in clear.values())
    crowd = _crowd(by_sample, probabilities or {}, classes) if undecided else _Crowd()
    decisions = []
    for sample_id, said in by_sample.items():
        outcome = clear[sample_id] or weighed(said, crowd.posteriors.get(sample_id))
        decisions.append(_decision(sample_id, said, outcome, given.get(sample_id), classes))
    return decisions


def opinions(verdicts: Sequence[Verdict], classes: Classes) -> list[Verdict]:
    """The verdicts that count: the latest of each source, then of each person and sample; in their first order.

    Raises RecordError for an answer that is no class of ``classes`` and no special answer.
    """
    latest: dict[str, Verdict] = {}
    for verdict in verdicts:
        _check(verdict, classes)
        latest[verdict.source] = _later(latest.get(verdict.source), verdict)
    counted: dict[tuple[str, str], Verdict] = {}
    for verdict in latest.values():
        if verdict.answer not in (SKIPPED, WITHDRAWN):
            who = (verdict.sample_id, verdict.person)
            counted[who] = _later(counted.get(who), verdict)
    return list(counted.values())


def worth_asking(
    verdicts: Sequence[Verdict], probabilities: Mapping[str, npt.NDArray[np.float64]], classes: Classes, *, most: int
) -> list[tuple[str, float]]:
    """Samples on which people and model together are least sure, and how sure they are, the least sure first.

    For choosing who gets a further opinion where not everybody can get one: only samples with a prediction, at least
    one opinion that names a class, and fewer than ``most`` opinions. How sure is the largest posterior of ``pooled``,
    which unlike CROWDLAB says something where each sample has one opinion only.
    """
    by_sample: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in opinions(verdicts, classes):
        by_sample[verdict.sample_id].append(verdict)
    named = {s: [classes.index(v.answer) for v in said if v.answer in classes.ids] for s, said in by_sample.items()}
    asked = [s for s, columns in named.items() if columns and s in probabilities]
    if not asked:
        return []
    votes = np.full((len(asked), max(len(named[s]) for s in asked)), np.nan)
    for row, sample_id in enumerate(asked):
        votes[row, : len(named[sample_id])] = named[sample_id]
    sure = pooled(votes, np.stack([probabilities[s] for s in asked])).max(axis=1)
    open_ones = [(s, float(p)) for s, p in zip(asked, sure, strict=True) if len(by_sample[s]) < most]
    return sorted(open_ones, key=lambda pair: (pair[1], pair[0]))


def pooled(
    labels: npt.NDArray[np.float64], probabilities: npt.NDArray[np.float64], *, rounds: int = 15
) -> npt.NDArray[np.float64]:
    """Posterior of the classes, shape (samples, classes), by one confusion matrix of all people and the model's prior.

    ``labels`` has shape (samples, opinions): class columns, NaN where there is none; ``probabilities`` has shape
    (samples, classes). Dawid and Skene's estimate (Applied Statistics 28, 1979) of one confusion matrix, with the
    out-of-sample probabilities in place of class frequencies; a person is thought right in most cases beforehand.
    """
    classes = probabilities.shape[1]
    prior = np.log(np.clip(probabilities, 1e-6, None))
    mistaken = 0.2 / max(classes - 1, 1)
    confusion = np.full((classes, classes), mistaken) + (0.8 - mistaken) * np.eye(classes)
    rows, opinion = np.nonzero(np.isfinite(labels))
    said = labels[rows, opinion].astype(np.int64)
    posterior = np.zeros_like(prior)
    for _ in range(rounds):
        logs = prior.copy()
        np.add.at(logs, rows, np.log(confusion)[:, said].T)
        posterior = np.exp(logs - logs.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        counts = 0.5 + 5 * np.eye(classes)
        np.add.at(counts.T, said, posterior[rows])
        confusion = counts / counts.sum(axis=1, keepdims=True)
    return posterior


def annotator_quality(
    verdicts: Sequence[Verdict], probabilities: Mapping[str, npt.NDArray[np.float64]] | None, classes: Classes
) -> pd.DataFrame:
    """How reliable and how fast each person is, best first.

    Columns: ``person``; ``answered``, samples with an opinion of theirs; ``agreement``, the share of other people's
    opinions on the same samples that say the same; ``median_seconds`` an answer; ``quality``, CROWDLAB's estimate of
    how often they are right. The last three are NaN where they can't be known.
    """
    import pandas as pd

    counted = opinions(verdicts, classes)
    by_sample: dict[str, list[Verdict]] = defaultdict(list)
    by_person: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in counted:
        by_sample[verdict.sample_id].append(verdict)
        by_person[verdict.person].append(verdict)
    crowd = _crowd(by_sample, probabilities or {}, classes)
    rows = [
        (person, len(mine), _agreement(person, mine, by_sample), _median_seconds(mine), crowd.quality.get(person))
        for person, mine in by_person.items()
    ]
    columns = ["person", "answered", "agreement", "median_seconds", "quality"]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], "float64"))
    return table.sort_values(["quality", "agreement", "person"], ascending=[False, False, True], ignore_index=True)


@dataclass(frozen=True)
class Outcome:
    """``answer`` is a class id or a special answer, ``None`` where people disagree."""

    answer: str | None
    confidence: float
    why: str = ""


@dataclass(frozen=True)
class _Crowd:
    """What CROWDLAB says: class id and posterior by sample, quality by person. Empty where it can't be asked."""

    posteriors: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)


def _clear_outcome(said: Sequence[Verdict]) -> Outcome | None:
    """Rules 1 to 4; ``None`` where people disagree about the class."""
    answers = [AMBIGUOUS if v.answer == OTHER else v.answer for v in said]
    votes = Counter(answers)
    for special in (BAD_IMAGE, AMBIGUOUS):
        if 2 * votes[special] > len(answers):
            return Outcome(special, votes[special] / len(answers))
    if len(votes) == 1:
        return Outcome(answers[0], 1.0)
    if 2 * (votes[BAD_IMAGE] + votes[AMBIGUOUS]) >= len(answers):
        return Outcome(None, max(votes.values()) / len(answers))
    return None


def weighed(said: Sequence[Verdict], posterior: tuple[str, float] | None) -> Outcome:
    """Rules 5 and 6. A class that nobody named is never taken, however sure the model is."""
    votes = Counter(v.answer for v in said)
    top, count = votes.most_common(1)[0]
    best, confidence = posterior or (top, count / len(said))
    taken = confidence >= (ENOUGH if posterior else ENOUGH_OF_PEOPLE) and votes[best] > 0
    how = f"; weighed by CROWDLAB, {confidence:.2f}" if posterior else ""
    return Outcome(best if taken else None, confidence, how)


def _decision(
    sample_id: str, said: Sequence[Verdict], outcome: Outcome, given: str | None, classes: Classes
) -> Decision:
    votes = Counter(classes.name(v.answer) for v in said)
    why = ", ".join(f"{count} of {len(said)} say '{name}'" for name, count in votes.most_common()) + outcome.why
    cites = tuple(sorted(v.id for v in said))
    confidence = float(min(1.0, max(0.0, outcome.confidence)))
    if outcome.answer is None:
        return Decision(sample_id, "contested", None, confidence, cites, why)
    if outcome.answer == BAD_IMAGE:
        return Decision(sample_id, "exclude", None, confidence, cites, why)
    if outcome.answer == AMBIGUOUS:
        return Decision(sample_id, "ambiguous", None, confidence, cites, why)
    if outcome.answer == given:
        return Decision(sample_id, "keep", given, confidence, cites, why)
    return Decision(sample_id, "change", outcome.answer, confidence, cites, why)


def _check(verdict: Verdict, classes: Classes) -> None:
    if verdict.answer not in classes.ids and verdict.answer not in (AMBIGUOUS, BAD_IMAGE, OTHER, SKIPPED, WITHDRAWN):
        raise RecordError(
            f"verdict {verdict.source} answers '{verdict.answer}', which is no class id; there are {list(classes.ids)}"
        )


def _later(known: Verdict | None, other: Verdict) -> Verdict:
    return other if known is None or (other.at, other.id) >= (known.at, known.id) else known


def _agreement(person: str, mine: Sequence[Verdict], by_sample: Mapping[str, Sequence[Verdict]]) -> float:
    same = [o.answer == v.answer for v in mine for o in by_sample[v.sample_id] if o.person != person]
    return float(np.mean(same)) if same else float("nan")


def _median_seconds(mine: Sequence[Verdict]) -> float:
    known = [v.seconds for v in mine if v.seconds is not None]
    return float(np.median(known)) if known else float("nan")


def _crowd(
    by_sample: Mapping[str, Sequence[Verdict]],
    probabilities: Mapping[str, npt.NDArray[np.float64]],
    classes: Classes,
) -> _Crowd:
    """Ask CROWDLAB about the samples that have a prediction and at least one opinion that names a class."""
    named = {
        sample_id: {v.person: classes.index(v.answer) for v in said if v.answer in classes.ids}
        for sample_id, said in by_sample.items()
        if sample_id in probabilities
    }
    named = {sample_id: said for sample_id, said in named.items() if said}
    if sum(len(said) > 1 for said in named.values()) < FEWEST_SHARED:
        return _Crowd()
    people = sorted({person for said in named.values() for person in said})
    columns = np.array([[said.get(person, np.nan) for person in people] for said in named.values()])
    found = crowdlab(columns, np.stack([probabilities[sample_id] for sample_id in named]))
    if found is None:
        return _Crowd()
    best, posterior, quality = found
    return _Crowd(
        {s: (classes.ids[b], float(p)) for s, b, p in zip(named, best, posterior, strict=True)},
        dict(zip(people, map(float, quality), strict=True)),
    )


def crowdlab(
    labels: npt.NDArray[np.float64], probabilities: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """cleanlab's CROWDLAB: consensus class and its posterior by sample, quality by person.

    ``labels`` has shape (samples, people): class columns, NaN where a person said nothing. ``probabilities`` has shape
    (samples, classes). ``None`` where cleanlab declines the table, for instance because it holds one class alone.
    """
    import pandas as pd
    from cleanlab.multiannotator import get_label_quality_multiannotator

    floored = np.clip(probabilities, 1e-6, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = get_label_quality_multiannotator(
                pd.DataFrame(labels), floored / floored.sum(axis=1, keepdims=True),
                return_detailed_quality=False, verbose=False,
            )  # fmt: skip
    except (ValueError, ZeroDivisionError, FloatingPointError):
        return None
    table, people = answer["label_quality"], answer["annotator_stats"]
    best = table["consensus_label"].to_numpy().astype(np.int64)
    posterior = table["consensus_quality_score"].to_numpy().astype(np.float64)
    quality = people["annotator_quality"].reindex(range(labels.shape[1])).to_numpy().astype(np.float64)
    return (best, posterior, quality) if np.isfinite(posterior).all() else None
