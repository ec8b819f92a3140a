"""Simulated projects, whose truth is known: drawn from real images, flagged, reviewed and decided as we do it.

A project takes some images to train on and some to measure on; the rest is hidden as the truth. Features are frozen and
heads in closed form. People who answer are real where the data set has several annotators.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from benchmarks.cases import Case, cifar_cases, cifar_table, digits_case, table_cases
from curation.audit import still_wrong
from curation.credit import TrainingSet, fit_head, predict_head
from curation.evidence import SURE, Answers, Beliefs, doubt_of, learn
from curation.flagging import judge_labels
from curation.queue import confusion_weights, draw_controls
from curation.regression import Inputs, LeaveOutKernel, apply_temperature, leave_out_ridge, temperature
from curation.scaling import principal_components, scale, scaled_by
from curation.scoring import FIRST_ROUND, corrected_labels, label_quality
from curation.view_heads import fit_view_head_on

Features = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TRAIN, HOLDOUT = 2_000, 500
COMPONENTS = 256
PENALTY = 100.0
#: Which share of a round's reviews are controls.
CONTROLS = 0.1


@dataclass(frozen=True, eq=False)
class Pool:
    """Images to draw projects from: ``given``, ``truth`` (images,), ``people`` (images, persons) are columns.

    ``features`` (images, d) are principal components of ``views``, what `curate flag` judges by, where these are known:
    their parts have these ``widths``.
    """

    name: str
    features: Features
    given: Columns
    truth: Columns
    people: Columns
    n_classes: int
    train: int = TRAIN
    holdout: int = HOLDOUT
    views: Features | None = None
    widths: Sequence[int] = ()


# --- a project under way


class Project:
    """A project under way: what is known to the toolkit, and the truth to compare with."""

    def __init__(self, pool: Pool, answers: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(pool.truth))
        rows = order[: pool.train]
        self.pool, self.rng, self.seed, self.human, self.rows = pool, rng, seed, answers == "human", rows
        self.held, self.hidden = order[pool.train : pool.train + pool.holdout], order[pool.train + pool.holdout :]
        self.features = pool.features[rows]
        self.given, self.truth = pool.given[rows], pool.truth[rows]
        self.people = rng.permuted(pool.people[rows], axis=1) if answers == "human" else pool.truth[rows][:, None]
        if self.people.shape[1] == 1:
            self.people = np.repeat(self.people, 2, axis=1)
        count = len(rows)
        self.labels = self.given.copy()
        self.said = np.zeros(count, dtype=np.int64)
        self.flagged = np.zeros(count, dtype=bool)
        self.contested = np.zeros(count, dtype=bool)
        self.judge = Judge(self.features, self.given, pool.n_classes, seed)
        self.probabilities: Floats = np.full((count, pool.n_classes), 1 / pool.n_classes)
        self.quality: Floats = np.ones(count)
        self.confidence: Floats = np.ones(count)
        self.flags: Mask = np.zeros(count, dtype=bool)
        self.beliefs: Beliefs | None = None

    @property
    def reviews(self) -> int:
        """Opinions that were given."""
        return int(self.said.sum())

    def score(self) -> None:
        """Judge the labels as they are now."""
        settled = (self.said > 0) & ~self.contested
        self.probabilities = self.judge.left_out(self.labels, settled)
        judged = judge_labels(self.probabilities, self.labels)
        self.quality, self.flags = judged.quality, judged.flagged
        self.confidence = label_quality(self.probabilities, self.labels)

    def review(self, budget: int, controls: float = CONTROLS, beyond: bool = False) -> None:
        """Ask people as the queue does: contested images again, controls, the worst flagged ones.

        With ``beyond`` the worst of what is not flagged follows when nothing that is flagged is left.
        """
        fresh = self.said == 0
        again = np.flatnonzero(self.contested & (self.said == 1))[:budget]
        room = budget - len(again)
        sound = np.flatnonzero(fresh & ~self.flags)
        count = min(round(controls * budget), room)
        drawn = sound[draw_controls(self.quality[sound].tolist(), count, random.Random(self.seed + self.reviews))]
        open_rows = np.setdiff1d(np.flatnonzero(fresh & (self.flags | beyond)), drawn)
        counts = (1 - self.quality) * confusion_weights(self.probabilities, self.labels)
        worst = open_rows[np.lexsort((-counts[open_rows], ~self.flags[open_rows]))][: room - len(drawn)]
        asked = np.concatenate([drawn, worst]).astype(np.int64)
        self.said[asked], self.said[again] = 1, 2
        self.flagged[asked] = self.flags[asked]

    def decide(self, draws: int = 0) -> None:
        """Learn from all answers, change the labels that are wrong, note which need another opinion.

        Intervals need ``draws`` from what is believed; decisions do without.
        """
        rows, answers, top = self.answers()
        self.beliefs = learn(answers, self.seed, draws)
        chances = self.beliefs.weigh(answers)
        self.changed = (chances[:, 1] >= SURE) & (answers.other > 0)
        self.changed |= (chances[:, 1] > 0.5) & (answers.other > 1)
        self.labels = self.given.copy()
        self.labels[rows[self.changed]] = top[self.changed]
        self.contested[:] = False
        self.contested[rows] = ~self.changed & (answers.other > 0) & (chances[:, 0] < 0.98)

    def answers(self) -> tuple[Columns, Answers, Columns]:
        """Reviewed rows, what was said of them, and the class that most others named (-1 for none)."""
        rows = np.flatnonzero(self.said)
        given, shares = self.given[rows], self.probabilities[rows]
        own = shares[np.arange(len(rows)), given]
        shares[np.arange(len(rows)), given] = 0
        shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
        votes = np.zeros((len(rows), self.pool.n_classes))
        for person in range(2):
            asked = self.said[rows] > person
            votes[np.flatnonzero(asked), self.people[rows[asked], person]] += 1
        same = votes[np.arange(len(rows)), given].astype(np.int64)
        votes[np.arange(len(rows)), given] = 0
        top = (votes + 0.5 * shares).argmax(axis=1)
        other = votes[np.arange(len(rows)), top].astype(np.int64)
        rest = votes.sum(axis=1).astype(np.int64) - other
        share = np.where(other > 0, shares[np.arange(len(rows)), top], 0.0)
        found = Answers(doubt_of(own), self.flagged[rows], same, other, rest, share, self.pool.n_classes)
        return rows, found, np.where(other > 0, top, -1)

    def wrong_estimate(self) -> tuple[float, float, float]:
        """Labels still wrong: estimate and interval."""
        assert self.beliefs is not None
        _, answers, _ = self.answers()
        left = self.said == 0
        doubt = doubt_of(self.confidence[left])
        found = still_wrong(self.beliefs, answers, self.changed, doubt, self.flags[left], seed=self.seed)
        return (found.value, *(found.ci or (0.0, 0.0)))


class Judge:
    """Linear and kernel regression on one project's images, each image left out; for any labels of them.

    What does not depend on labels is worked out once, and the kernel's noise is chosen by the labels given at first.
    """

    def __init__(self, features: Features, given: Columns, n_classes: int, seed: int) -> None:
        self._alone, self._n_classes = np.arange(len(given)), n_classes
        inputs = np.concatenate([features, np.ones((len(features), 1), dtype=np.float32)], axis=1)
        lower = np.linalg.cholesky((inputs.T @ inputs).astype(np.float64) + PENALTY * np.eye(inputs.shape[1]))
        half = solve_triangular(lower.astype(np.float32), inputs.T, lower=True, check_finite=False).T
        self._half = np.ascontiguousarray(half)
        self._kernel = LeaveOutKernel(features, n_classes, self._alone, seed)
        self._kernel.choose(given)

    def left_out(self, labels: Columns, settled: Mask | None = None) -> Floats:
        """Out-of-sample probabilities (images, classes) in two rounds, as ``score_out_of_sample`` does it."""
        first = self._round(labels, labels)
        second = self._round(corrected_labels(first, labels, settled), labels)
        return np.asarray(FIRST_ROUND * first + (1 - FIRST_ROUND) * second)

    def _round(self, learned: Columns, given: Columns) -> Floats:
        targets = (np.eye(self._n_classes, dtype=np.float32)[learned] - 1 / self._n_classes).astype(np.float32)
        values = leave_out_ridge(self._half, self._half @ (self._half.T @ targets), targets, self._alone)
        linear = apply_temperature(values, temperature(values, given))
        return np.asarray((linear + self._kernel.probabilities(learned, given)) / 2)


def right_rows(project: Project, labels: Columns, rows: Columns | None = None) -> Columns:
    """What a head trained on these labels (of these rows, by default all) predicts for every image of the pool.

    -1 for those of train, which nothing is measured on.
    """
    pool, chosen = project.pool, np.arange(len(labels)) if rows is None else rows
    head = fit_head(TrainingSet(project.features[chosen], labels[chosen]), pool.n_classes, PENALTY)
    rest = np.concatenate([project.held, project.hidden])
    predicted = np.full(len(pool.truth), -1, dtype=np.int64)
    predicted[rest] = predict_head(head, pool.features[rest])
    return predicted


class TrainedHead:
    """The head on views that the toolkit trains, on one project's images with whatever labels.

    It serves every project of the same seed and images: what depends on no label is worked out once.
    """

    def __init__(self, project: Project) -> None:
        pool, rows = project.pool, project.rows
        views = pool.features if pool.views is None else pool.views
        rest = np.concatenate([project.held, project.hidden])
        self._inputs = Inputs(views[rows], pool.n_classes, np.arange(len(rows)), seed=project.seed, widths=pool.widths)
        self._rest = scaled_by(views[rest], self._inputs.mean, self._inputs.divisor)
        self._truth = pool.truth[rest]
        self._near: dict[float, Features] = {}

    def accuracy(self, labels: Columns) -> float:
        """That on all images outside of the training set, truly labeled."""
        head, _ = fit_view_head_on(self._inputs, labels)
        width = float(head.width[0])
        if width not in self._near:
            self._near = {width: head.nearness(self._rest)}
        found = head.probabilities_of(self._rest, self._near[width])
        return float((found.argmax(axis=1) == self._truth).mean())


def clean_accuracy(project: Project, labels: Columns) -> float:
    """Accuracy of a linear head on these labels, on all images outside of the training set, truly labeled."""
    rest = np.concatenate([project.held, project.hidden])
    return float((right_rows(project, labels)[rest] == project.pool.truth[rest]).mean())


# --- data


def pools_from_cifar(archive: Path, cache: Path) -> dict[str, Pool]:
    """A pool for each label set of CIFAR-10N; annotators 2 and 3 answer."""
    cases = {case.name: case for case in cifar_cases(archive, None, cache)}
    features = reduced(cases["random_label1"], cache)
    third = cifar_column(cache, "random_label3", cases["random_label1"])
    people = np.stack([cases["random_label2"].given, third], axis=1)
    return {
        name: Pool(
            name, features, case.given, case.truth, people, len(case.names), views=case.views, widths=case.widths
        )
        for name, case in cases.items()
    }


def pool_from_counts(archive: Path, cache: Path, seed: int = 0) -> Pool:
    """CIFAR-10's test images, of which some 51 people said what they see: one of them gave the label, two answer."""
    import pandas as pd

    file = cifar_table(archive, cache).with_name("test.csv")
    case = replace(table_cases(file.parent, file, ["clean_label"], "clean_label", None, cache)[0], name="counts")
    counts = pd.read_csv(file)[[f"human_{name}" for name in case.names]].to_numpy()
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(np.repeat(np.arange(len(own)), own))[:3] for own in counts])
    return Pool(case.name, reduced(case, cache), drawn[:, 0], case.truth, drawn[:, 1:], len(case.names), 600, 150)


def digits_pools(cache: Path) -> dict[str, Pool]:
    """scikit-learn's digits with planted errors, answered by two drawn people who err in one of eight."""
    case, rng = digits_case(), np.random.default_rng(0)
    people = np.stack([erring(case.truth, 0.12, rng) for _ in range(2)], axis=1)
    return {"digits": Pool("digits", reduced(case, cache), case.given, case.truth, people, 10, 800, 300)}


def erring(truth: Columns, rate: float, rng: np.random.Generator) -> Columns:
    """Answers that are wrong at this rate, any other class being as likely as another."""
    wrong = rng.random(len(truth)) < rate
    return np.where(wrong, (truth + rng.integers(1, truth.max() + 1, len(truth))) % (truth.max() + 1), truth)


def reduced(case: Case, cache: Path) -> Features:
    """Principal components of the features that `curate flag` judges by, kept in ``cache``."""
    features, widths = (case.features, ()) if case.views is None else (case.views, case.widths)
    name = case.name.split(",")[0].replace(" ", "-")
    kept = cache / f"components-{name}-{len(case.truth)}-{features.shape[1]}.npy"
    if kept.exists():
        return np.asarray(np.load(kept))
    found = principal_components(scale(features, widths), COMPONENTS, 0)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(kept, found)
    return found


def cifar_column(cache: Path, name: str, case: Case) -> Columns:
    """Another column of CIFAR-10N's table, which ``cifar_cases`` has unpacked."""
    import pandas as pd

    table = pd.read_csv(next((cache / "cifar10n").rglob("train.csv")), dtype=str)
    return np.array([case.names.index(label) for label in table[name]], dtype=np.int64)
