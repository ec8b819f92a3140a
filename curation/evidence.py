"""What people's answers say of labels: the flagger's doubt and people's own errors in one small model.

Nobody is taken at his word: a single person contradicts about one right label in eight. For each reviewed label three
things may be so: the given label is right; the other class that most answers name is; neither is. How probable each is
follows from a logistic line over the flagger's doubt, with its own level for labels that were not flagged, and from how
often people err: on right labels (more often where the flagger doubts), on wrong ones by naming the given class, and on
wrong ones by naming a third. All of it is learned from the answers together, those that several people gave telling
people's errors from wrong labels (Dawid and Skene, Applied Statistics 1979), under weak priors about ordinary people.
The flagger's doubt only orders the labels: how often they are wrong is learned from what people said, of the controls
above all. That controls are drawn by that same doubt leaves no bias, since the line stands on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError
from curation.records import Classes, Decision, Predictions, QueueEntry, Verdict

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

DRAWS = 1_000
#: How many numbers, draws times labels, an array holds at once.
_AT_ONCE = 500_000
#: Priors, normal: intercept and slope of the doubt, level of what is not flagged; people's errors on right labels
#: (about one in ten, more where the flagger doubts); naming the true class where it is not the given one; naming the
#: given class although it is wrong. All are logits. Decisions rest on priors near to what is usual, intervals on weaker
#: ones, which serve images of other kinds as well; the first three of each were chosen by simulation (docs/log.md, "How
#: well the proof keeps its word").
_USUAL = np.array([[-1.0, 1.0, -0.4, -2.2, 0.1, 1.5, -2.2], [1.5, 0.3, 0.4, 1.0, 0.2, 0.8, 0.7]])
_WEAK = np.array([[-1.5, 1.0, -0.2, -2.2, 0.1, 1.5, -2.2], [1.5, 0.4, 0.6, 1.0, 0.2, 0.8, 0.7]])
#: Steps of numeric derivatives: the point itself, then up and down along each parameter.
_STEP = 1e-2
_STENCIL = np.concatenate([np.zeros((1, 7)), np.stack([_STEP * np.eye(7), -_STEP * np.eye(7)], axis=1).reshape(14, 7)])
#: Two people who err on the same image name the same class so often.
_ALIKE = 0.35


@dataclass(frozen=True, eq=False)
class Answers:
    """What was said of reviewed labels; every array has shape (labels,).

    ``doubt`` is the logit of how doubtful the flagger found the label when it was asked about (``doubt_of``),
    ``flagged`` whether it was flagged. ``same`` counts people who named the given class, ``other`` those who named the
    class that most others named, ``rest`` the remaining ones. ``share`` is what that other class has of the
    probability of all classes but the given one, by the model that judged the label.
    """

    doubt: Floats
    flagged: Mask
    same: Integers
    other: Integers
    rest: Integers
    share: Floats
    n_classes: int

    def __post_init__(self) -> None:
        shapes = {len(getattr(self, name)) for name in ("doubt", "flagged", "same", "other", "rest", "share")}
        if len(shapes) != 1:
            raise RecordError(f"answers must have one value a label in every array, got lengths {sorted(shapes)}")

    def __len__(self) -> int:
        return len(self.doubt)

    def of(self, chosen: Mask | slice) -> Answers:
        """Those of the ``chosen`` labels, (labels,), or from one place to another."""
        return Answers(
            self.doubt[chosen], self.flagged[chosen], self.same[chosen], self.other[chosen], self.rest[chosen],
            self.share[chosen], self.n_classes,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What the answers taught: the most probable parameters (7,), by which decisions are made, and draws (draws, 7).

    Draws are from the posterior under weaker priors, for intervals.
    """

    best: Floats
    draws: Floats

    def wrong_rate(self, doubt: Floats, flagged: Mask) -> Floats:
        """How probably each unreviewed label is wrong, shape (labels,)."""
        return np.asarray(_logistic(_line(self.best[None], doubt, flagged))[0])

    def wrong_counts(self, doubt: Floats, flagged: Mask, rng: np.random.Generator) -> Floats:
        """How many of these unreviewed labels are wrong, by every draw, shape (draws,).

        Each label is wrong by its own chance: a binomial count of the same mean and variance stands for their sum.
        """
        total, squares = np.zeros(len(self.draws)), np.zeros(len(self.draws))
        for doubts, size, level in _bins(doubt, flagged):
            rate = _logistic(_line(self.draws, doubts, np.full(len(doubts), level)))
            total += rate @ size
            squares += rate**2 @ size
        trials = np.ceil(np.maximum(total**2 / np.maximum(squares, 1e-12), 1)).astype(np.int64)
        return np.asarray(rng.binomial(trials, np.clip(total / trials, 0, 1)), dtype=np.float64)

    @property
    def finds(self) -> Floats:
        """How often one person names the right class of a wrong label, by every draw, shape (draws,)."""
        return np.asarray((1 - _logistic(self.draws[:, 6])) * _logistic(self.draws[:, 5]))

    def weigh(self, answers: Answers) -> Floats:
        """How probable it is that the given, the other, or neither class is right, shape (labels, 3)."""
        return np.asarray(_shares(self.best[None], answers)[0])

    def weigh_draws(self, answers: Answers) -> Iterator[tuple[slice, Floats]]:
        """The same by every draw, a block of labels at a time: where it lies, and shape (draws, labels of it, 3)."""
        for place in _blocks(len(answers), len(self.draws)):
            yield place, _shares(self.draws, answers.of(place))


#: A label is changed where the other class is at least this probable, and kept where the given one is; between the
#: two a second person is asked.
SURE = 0.8


def doubt_of(quality: Floats) -> Floats:
    """The logit of 1 - quality, quality kept off 0 and 1.

    >>> doubt_of(np.array([0.5, 0.1])).round(2).tolist()
    [0.0, 2.2]
    """
    kept = np.clip(quality, 2e-3, 1 - 2e-3)
    return np.asarray(np.log1p(-kept) - np.log(kept))


@dataclass(frozen=True, eq=False)
class Said:
    """Answers about labels, with whose they are: sample ids, and the class id that most others named or ``None``."""

    sample_ids: tuple[str, ...]
    others: tuple[str | None, ...]
    answers: Answers


def gather(
    entries: Sequence[QueueEntry], opinions: Sequence[Verdict], predictions: Predictions, classes: Classes
) -> Said:
    """What ``opinions`` (one a person and sample) say of the labels that were given when they were first asked about.

    ``entries`` are queue entries of any iterations, the earliest first. Left out are images without a label then,
    those that ``predictions`` (out of sample) do not hold, and those of which nobody named a class.
    """
    first: dict[str, QueueEntry] = {}
    for entry in entries:
        first.setdefault(entry.sample_id, entry)
    named: dict[str, Counter[str]] = {}
    for verdict in opinions:
        if verdict.answer in classes.ids:
            named.setdefault(verdict.sample_id, Counter())[verdict.answer] += 1
    known = set(predictions.sample_ids)
    ids = [s for s, e in first.items() if e.given in classes.ids and s in named and s in known]
    probabilities = predictions.take(ids).probabilities
    rows = [
        _counted(first[s], named[s], chances, classes) for s, chances in zip(ids, probabilities, strict=True)
    ]  # fmt: skip
    columns = list(zip(*rows, strict=True)) or [()] * 7
    doubt, flagged, same, other, rest, share, top = columns
    answers = Answers(
        np.array(doubt, dtype=np.float64), np.array(flagged, dtype=bool), np.array(same, dtype=np.int64),
        np.array(other, dtype=np.int64), np.array(rest, dtype=np.int64), np.array(share, dtype=np.float64),
        len(classes),
    )  # fmt: skip
    return Said(tuple(ids), tuple(top), answers)


def _counted(
    entry: QueueEntry, named: Mapping[str, int], probabilities: Floats, classes: Classes
) -> tuple[float, bool, int, int, int, float, str | None]:
    given = entry.given or ""
    own = float(probabilities[classes.index(given)])
    shares = {c: float(probabilities[classes.index(c)]) / max(1 - own, 1e-9) for c in named if c != given}
    top = max(shares, key=lambda c: (named[c], shares[c]), default=None)
    others = sum(count for c, count in named.items() if c != given)
    flagged = entry.mode == "shown" or (entry.mode == "blind" and bool(entry.reason))
    doubt = float(doubt_of(np.array([own]))[0])
    if top is None:
        return doubt, flagged, named.get(given, 0), 0, 0, 0.0, None
    return doubt, flagged, named.get(given, 0), named[top], others - named[top], min(shares[top], 1.0), top


def hold_back(decisions: Sequence[Decision], said: Said, beliefs: Beliefs, asked: Mapping[str, int]) -> list[Decision]:
    """The decisions, those to change a label contested instead where one person alone is too little evidence.

    That is where the label is less than ``SURE`` to be the class that the person named, by the flagger's doubt and by
    how often people err. ``asked`` counts how often each sample was answered about: what was asked twice is decided.
    """
    chances = beliefs.weigh(said.answers)
    sure = {s: float(chance[1]) for s, chance in zip(said.sample_ids, chances, strict=True)}
    top = dict(zip(said.sample_ids, said.others, strict=True))
    alone = dict(zip(said.sample_ids, said.answers.other == 1, strict=True))
    result = []
    for decision in decisions:
        sample = decision.sample_id
        doubtful = (
            decision.outcome == "change"
            and asked.get(sample, 0) < 2
            and alone.get(sample, False)
            and top[sample] == decision.class_id
            and sure[sample] < SURE
        )
        result.append(_held(decision, sure[sample]) if doubtful else decision)
    return result


def _held(decision: Decision, sure: float) -> Decision:
    why = f"{decision.why}; with what the model sees {sure:.0%} sure, so a second person is asked"
    return replace(decision, outcome="contested", class_id=None, confidence=sure, why=why)


def learn(answers: Answers, seed: int = 0, draws: int = DRAWS) -> Beliefs:
    """Fit the model: most probable parameters, and so many draws from their posterior under weaker priors.

    They are drawn from a t distribution, reweighted by the posterior itself and drawn anew (Rubin 1987), because few
    answers make it skew. Without any answer the beliefs are the priors.
    """
    best = _most_probable(answers, _USUAL)
    return Beliefs(best, _drawn(answers, draws, np.random.default_rng(seed)) if draws else best[None])


def _most_probable(answers: Answers, prior: Floats) -> Floats:
    from scipy.optimize import minimize

    def loss(theta: Floats) -> tuple[float, Floats]:
        around = _log_posterior(theta + _STENCIL, answers, prior)
        return -float(around[0]), -(around[1::2] - around[2::2]) / (2 * _STEP)

    return np.asarray(minimize(loss, prior[0], jac=True, method="BFGS", options={"gtol": 1e-2, "maxiter": 60}).x)


def _drawn(answers: Answers, draws: int, rng: np.random.Generator) -> Floats:
    """Draws from the posterior under the weak priors, shape (draws, 7)."""
    best = _most_probable(answers, _WEAK)
    values, vectors = np.linalg.eigh(np.linalg.inv(_curvature(best, answers, _WEAK)))
    root = vectors * np.sqrt(np.clip(values, 1e-6, 25.0))
    normal = rng.normal(size=(2 * draws, len(best)))
    wide = rng.chisquare(8, size=(2 * draws, 1)) / 8  # Student's t: its tails cover those of the posterior
    proposed = best + (normal / np.sqrt(wide)) @ root.T
    density = -0.5 * (8 + len(best)) * np.log1p((normal**2).sum(axis=1) / wide[:, 0] / 8)
    weight = _log_posterior(proposed, answers, _WEAK) - density
    chance = np.exp(weight - weight.max())
    return np.asarray(proposed[rng.choice(len(proposed), draws, p=chance / chance.sum())])


def _log_posterior(theta: Floats, answers: Answers, prior: Floats) -> Floats:
    """Up to a constant, shape (draws,); ``theta`` has shape (draws, 7), ``prior`` (2, 7): means and spreads."""
    total = -0.5 * (((theta - prior[0]) / prior[1]) ** 2).sum(axis=1)
    for place in _blocks(len(answers), len(theta)):
        total += _log_sum(_joint(theta, answers.of(place))).sum(axis=1)
    return np.asarray(total)


def _blocks(labels: int, draws: int) -> Iterator[slice]:
    """Places of so many labels that with all draws they fit into memory, however many labels people have judged."""
    size = max(1, _AT_ONCE // max(draws, 1))
    return (slice(start, start + size) for start in range(0, labels, size))


def _joint(theta: Floats, answers: Answers) -> tuple[Floats, Floats, Floats]:
    """Logarithms of the probability of the answers with each of the three right, each of shape (draws, labels)."""
    same, other, rest = (counts.astype(np.float64) for counts in (answers.same, answers.other, answers.rest))
    line = _line(theta, answers.doubt, answers.flagged)
    err = theta[:, 3:4] + theta[:, 4:5] * answers.doubt
    stay = -np.logaddexp(0, -theta[:, 6:7])  # on a wrong label, names the given class
    move = -np.logaddexp(0, theta[:, 6:7])
    more = np.maximum(other - 1, 0)
    if answers.n_classes > 2:
        find, third = move - np.logaddexp(0, -theta[:, 5:6]), move - np.logaddexp(0, theta[:, 5:6])
        a_class = 1 / (answers.n_classes - 1)
        share = 0.9 * answers.share + 0.1 * a_class
        alike = more * np.log(_ALIKE) + rest * np.log(1 - _ALIKE)
    else:
        find, third, a_class, share, alike = move, np.full_like(move, -700.0), 1.0, np.ones(len(answers)), 0.0 * more
    named = other > 0  # a person who errs names what the image is like, or anything
    right = (
        _log_logistic(-line) + same * _log_logistic(-err) + (other + rest) * _log_logistic(err)
        + alike + np.where(named, np.log((share + a_class) / 2), 0.0)
    )  # fmt: skip
    wrong = _log_logistic(line) + same * stay
    found = wrong + other * find + rest * third + np.log(share)
    apart = np.where(named, np.log(a_class), 0.0) + more * np.log(_ALIKE) + np.log(np.maximum(1 - share, 1e-12))
    neither = wrong + other * third + np.where(rest > 0, find + (rest - 1) * third, 0.0) + apart
    return right, found, neither


def _log_sum(parts: Sequence[Floats]) -> Floats:
    return np.asarray(np.logaddexp(np.logaddexp(parts[0], parts[1]), parts[2]))


def _line(theta: Floats, doubt: Floats, flagged: Mask) -> Floats:
    """Logit of being wrong, shape (draws, labels)."""
    return np.asarray(theta[:, :1] + np.maximum(theta[:, 1:2], 0) * doubt + theta[:, 2:3] * ~flagged)


def _log_logistic(values: Floats) -> Floats:
    return np.asarray(np.minimum(values, 0) - np.log1p(np.exp(-np.abs(values))))


def _curvature(at: Floats, answers: Answers, prior: Floats) -> Floats:
    """Second derivatives of minus the log posterior by central differences, shape (7, 7)."""
    moves = np.eye(len(at)) * _STEP
    pairs = [(i, j) for i in range(len(at)) for j in range(i, len(at))]
    signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    ends = np.array([at + x * moves[i] + y * moves[j] for i, j in pairs for x, y in signs])
    values = _log_posterior(ends, answers, prior).reshape(-1, 4)
    result = np.zeros((len(at), len(at)))
    for (i, j), (a, b, c, d) in zip(pairs, values, strict=True):
        result[i, j] = result[j, i] = -(a - b - c + d) / (4 * _STEP**2)
    return result + 1e-6 * np.eye(len(at))


def _shares(theta: Floats, answers: Answers) -> Floats:
    """How probable each of the three is, shape (draws, labels, 3)."""
    parts = _joint(theta, answers)
    total = _log_sum(parts)
    return np.stack([np.exp(part - total) for part in parts], axis=-1)


def _bins(doubt: Floats, flagged: Mask, count: int = 40) -> list[tuple[Floats, Floats, bool]]:
    """Mean doubts, how many labels have them, and whether those are flagged: far fewer than labels."""
    bins = []
    for level in (True, False):
        own = np.sort(doubt[flagged == level])
        parts = [part for part in np.array_split(own, count) if len(part)]
        bins.append((np.array([p.mean() for p in parts]), np.array([float(len(p)) for p in parts]), level))
    return [entry for entry in bins if len(entry[0])]


def _logistic(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -30, 30))))
