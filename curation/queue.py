"""From issues and a budget to the batch that people are asked about: worst first, with a blind share and controls.

Only training images and the pool are asked about; nothing here reads the holdout.
"""

from __future__ import annotations

import hashlib
import hmac
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.config import ReviewSettings
from curation.issues import LABEL_KINDS
from curation.records import Issue, Mode, QueueEntry

#: A contested image is asked again until it has so many opinions.
MOST_OPINIONS = 5
#: How much more a rare confusion of classes counts than a common one, as a power; added first is a share of the mean.
_RARE, _AT_LEAST = 0.06, 0.1

Floats = npt.NDArray[np.float64]


def build_batch(
    label_quality: Mapping[str, float],
    issues: Sequence[Issue],
    labels: Mapping[str, str | None],
    train_ids: Sequence[str],
    *,
    budget: int,
    settings: ReviewSettings,
    iteration: int,
    project_id: str,
    seed: int,
    asked: Mapping[str, int],
    contested: Sequence[str],
    secret: str,
    pool: Sequence[tuple[str, float]] = (),
    reserved: int = 0,
    weights: Mapping[str, float] | None = None,
) -> list[QueueEntry]:
    """The images that people are asked about in one iteration: at most ``budget``, each once, by position from 0.

    First come contested images, blind, for one more opinion each, up to five opinions in all; they carry no suggestion
    and no reason, since it is people's answers that they are asked for, not a flag. Of the rest of the budget
    ``settings.control_share`` are controls, drawn from what is not flagged (``draw_controls``), and the others flagged
    images, those with the lowest ``label_quality`` (0 worst, 1 best), of which ``settings.blind_share`` of the budget,
    drawn at random, are asked blind. An image is flagged by an issue of kind ``label`` or ``label_conflict``. Shown
    ones keep the order from the worst on; blind ones and controls are shuffled by ``seed`` and strewn among them, so
    that a batch that is closed early holds some of each. ``asked`` counts the opinions that an image has; one that has
    any is asked again only where contested. What is left of the budget goes to ``pool``, unlabeled images with the
    model's doubt, the most doubtful first; ``reserved`` places at least, as far as it goes. ``secret`` keeps the keys
    opaque. Where ``weights`` say what a wrong label counts (by sample, 0 and up: what it may cost, or
    ``confusion_weights``), flagged images come by (1 - quality) times that instead.
    """
    rng = random.Random(f"{seed}:{iteration}")
    flags = _flags(issues)
    trained = set(train_ids)
    again = [s for s in dict.fromkeys(contested) if s in trained and asked.get(s, 0) < MOST_OPINIONS][: max(budget, 0)]
    fresh = {s for s in trained if not asked.get(s)} - set(again)
    reserved = min(reserved, len([p for p in pool if not asked.get(p[0]) and p[0] not in trained]))
    room = max(max(budget, 0) - len(again) - reserved, 0)

    unflagged = sorted(fresh - flags.keys())
    qualities = [label_quality.get(s, 1.0) for s in unflagged]
    places = draw_controls(qualities, min(round(settings.control_share * budget), room), rng)
    controls = [unflagged[place] for place in places]
    at_stake = {s: (1 - label_quality.get(s, 1.0)) * (weights or {}).get(s, 1.0) for s in fresh & flags.keys()}
    worst = sorted(at_stake, key=lambda s: (-at_stake[s], s))[: room - len(controls)]
    blind = set(rng.sample(worst, min(round(settings.blind_share * budget), len(worst)) if worst else 0))
    hidden: list[tuple[str, Mode]] = [(s, "blind" if s in blind else "control") for s in [*sorted(blind), *controls]]
    rng.shuffle(hidden)
    shown: list[tuple[str, Mode]] = [(s, "shown") for s in worst if s not in blind]
    left = max(budget, 0) - len(again) - len(shown) - len(hidden)
    doubtful = sorted((p for p in pool if not asked.get(p[0]) and p[0] not in trained), key=lambda p: (-p[1], p[0]))

    chosen: list[tuple[str, Mode]] = [(s, "blind") for s in again]
    chosen += _strewn(shown, hidden, rng)
    chosen += [(s, "blind") for s, _ in doubtful[:left]]
    entries = []
    for position, (sample, mode) in enumerate(chosen):
        wave = asked.get(sample, 0)
        entries.append(
            QueueEntry(
                key=opaque_key(secret, project_id, iteration, sample, mode, wave),
                sample_id=sample,
                iteration=iteration,
                position=position,
                mode=mode,
                given=labels.get(sample),
                opinions=1 if sample in again else settings.opinions,
                **_why(None if sample in again else flags.get(sample)),
            )
        )
    return entries


def confusion_weights(probabilities: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """What each label counts in the queue's order beside its doubt, shape (samples,), around 1.

    A little more where few images labeled as it is are taken for the class that the model would give it: correcting
    rare confusions first makes the model better by the same number of reviews, common ones being left in either case
    (docs/log.md). ``probabilities`` (samples, classes) are out of sample, ``labels`` (samples,) their columns.

    >>> sure, unsure = [0.1, 0.9, 0.0], [0.1, 0.0, 0.9]
    >>> confusion_weights(np.array([sure, sure, sure, unsure]), np.zeros(4, dtype=int)).round(2).tolist()
    [0.97, 0.97, 0.97, 1.03]
    """
    rows, n_classes = np.arange(len(labels)), probabilities.shape[1]
    others = probabilities.copy()
    others[rows, labels] = 0
    taken_for = np.zeros((n_classes, n_classes))
    np.add.at(taken_for, labels, others)
    common = taken_for[labels, others.argmax(axis=1)]
    mean = taken_for.sum() / max((taken_for > 0).sum(), 1)
    return np.asarray((common / max(mean, 1e-12) + _AT_LEAST) ** -_RARE)


def draw_controls(qualities: Sequence[float], count: int, rng: random.Random) -> list[int]:
    """Places of ``count`` labels, or all, drawn without replacement: each time one by its doubt, 1 - quality.

    So each can be drawn, and those that may well be wrong more often are: they tell more of what flagging misses than
    as many drawn evenly, and find more errors (docs/log.md). Qualities count as 0.002 to 0.998, as in
    ``evidence.doubt_of``. Drawn by exponential keys (Efraimidis and Spirakis, Information Processing Letters 97, 2006).
    """
    keys = [rng.expovariate(1 - min(max(quality, 2e-3), 1 - 2e-3)) for quality in qualities]
    return sorted(range(len(keys)), key=keys.__getitem__)[: max(count, 0)]


def _flags(issues: Sequence[Issue]) -> dict[str, Issue]:
    """The issue that each image is asked about: that of kind ``label`` before one of kind ``label_conflict``."""
    about_labels = [i for i in issues if i.kind in LABEL_KINDS]
    return {i.sample_id: i for i in sorted(about_labels, key=lambda i: i.kind == "label")}


def _why(issue: Issue | None) -> dict[str, Any]:
    if issue is None:
        return {"suggested": None, "reason": "", "related": ()}
    return {"suggested": issue.suggested, "reason": issue.reason, "related": issue.related}


def _strewn(
    shown: Sequence[tuple[str, Mode]], hidden: Sequence[tuple[str, Mode]], rng: random.Random
) -> list[tuple[str, Mode]]:
    """Both in one list, each in its own order, at random places."""
    places = set(rng.sample(range(len(shown) + len(hidden)), len(hidden)))
    first, second = iter(shown), iter(hidden)
    return [next(second) if place in places else next(first) for place in range(len(shown) + len(hidden))]


def opaque_key(secret: str, project_id: str, iteration: int, sample_id: str, mode: Mode, wave: int) -> str:
    """The name of one question: the same for the same one, and silent to whoever lacks the secret; 32 hex digits."""
    about = "\x1f".join((project_id, str(iteration), sample_id, mode, str(wave)))
    return hmac.new(secret.encode(), about.encode(), hashlib.sha256).hexdigest()[:32]
