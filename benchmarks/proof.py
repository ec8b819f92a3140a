"""Whether the proof keeps its word: coverage of its intervals over many simulated projects with real human errors.

A project is drawn from images whose truth is known: 2,000 to train on, 500 to measure on, the rest hidden as the
truth. Its labels are flagged, reviewed and decided as the toolkit does it, on frozen features with heads in closed
form. Answers are either right (``perfect``) or those of real people (``human``): where the given labels are those of
one CIFAR-10N annotator, the other two answer, never the answer key.

    python benchmarks/proof.py --cifar10n cifar10n.zip --elpv --json proof.json
    python benchmarks/proof.py --cifar10n cifar10n.zip --projects 200 --only human --part 0/4 --json part0.json

``--projects`` are so many for each kind of answers (1,000; 60 with ``--quick``); ``--part i/n`` runs every n-th of
them, so that a long run can be divided, and ``--merge FILE...`` puts the parts' JSON together. Without data it
measures on scikit-learn's digits with planted errors and drawn people. Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.detection import Case, cifar_cases, digits_case, elpv_cases
from curation.audit import LEAST_YIELD, still_wrong, wilson_interval
from curation.credit import TrainingSet, causes, credit_actions, fit_head, predict_head
from curation.evidence import DRAWS, SURE, Answers, Beliefs, doubt_of, learn
from curation.gain import paired_interval
from curation.issues import doubtful_labels
from curation.scoring import (
    FIRST_ROUND,
    apply_temperature,
    corrected_labels,
    label_quality,
    leave_out_ridge,
    principal_components,
    scale,
    temperature,
)

Features = npt.NDArray[np.float32]
Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PROJECTS, QUICK = 1_000, 60
TRAIN, HOLDOUT = 2_000, 500
COMPONENTS = 256
PENALTY = 100.0
#: Reviews a round, and how many of them are controls.
BATCH, CONTROLS = 150, 0.1
ROUNDS = 2
#: The stop rule is watched after rounds of these shares of the labels.
STOP_ROUNDS = (*[0.05] * 8, 0.1, 0.1, 0.2, 0.2)
RULES = ("ours", "cleanlab's count", "100", "200", "400", "800")


@dataclass(frozen=True, eq=False)
class Pool:
    """Images to draw projects from: ``given``, ``truth`` (images,), ``people`` (images, persons) are columns."""

    name: str
    features: Features
    given: Columns
    truth: Columns
    people: Columns
    n_classes: int
    train: int = TRAIN
    holdout: int = HOLDOUT


@dataclass(frozen=True)
class Outcome:
    """One project at its end: labels still wrong and gain, each with estimate, interval and truth."""

    pool: str
    answers: str
    seed: int
    reviews: int
    wrong_at_first: int
    wrong: int
    wrong_estimate: float
    wrong_low: float
    wrong_high: float
    changes_made: int
    gain: float
    gain_estimate: float
    gain_low: float
    gain_high: float
    gain_as_given: float
    gain_as_given_low: float
    gain_as_given_high: float
    null_low: float
    null_high: float
    seconds: float


# --- one project


class Project:
    """A project under way: what is known to the toolkit, and the truth to compare with."""

    def __init__(self, pool: Pool, answers: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(pool.truth))
        rows = order[: pool.train]
        self.pool, self.rng, self.seed, self.human = pool, rng, seed, answers == "human"
        self.held, self.hidden = order[pool.train : pool.train + pool.holdout], order[pool.train + pool.holdout :]
        self.features = pool.features[rows]
        self.given, self.truth = pool.given[rows], pool.truth[rows]
        self.people = rng.permuted(pool.people[rows], axis=1) if answers == "human" else pool.truth[rows][:, None]
        if self.people.shape[1] == 1:
            self.people = np.repeat(self.people, 2, axis=1)
        count = len(rows)
        self.labels = self.given.copy()
        self.said = np.zeros(count, dtype=np.int64)
        self.doubt, self.flagged = np.zeros(count), np.zeros(count, dtype=bool)
        self.shares = np.zeros((count, pool.n_classes))
        self.contested = np.zeros(count, dtype=bool)
        self.quality, self.flags = np.ones(count), np.zeros(count, dtype=bool)
        self.beliefs: Beliefs | None = None

    @property
    def reviews(self) -> int:
        """Opinions that were given."""
        return int(self.said.sum())

    def score(self) -> None:
        """Judge the labels as they are now."""
        settled = (self.said > 0) & ~self.contested
        probabilities = left_out(self.features, self.labels, self.pool.n_classes, settled=settled)
        self.quality = label_quality(probabilities, self.labels)
        self.flags = doubtful_labels(probabilities, self.labels)
        others = probabilities.copy()
        others[np.arange(len(others)), self.labels] = 0
        self.others = others / np.maximum(others.sum(axis=1, keepdims=True), 1e-12)

    def review(self, budget: int, controls: float = CONTROLS, beyond: bool = False) -> None:
        """Ask people as the queue does: contested images again, random controls, the worst flagged ones.

        With ``beyond`` the worst of what is not flagged follows when nothing that is flagged is left.
        """
        fresh = self.said == 0
        again = np.flatnonzero(self.contested & (self.said == 1))[:budget]
        room = budget - len(again)
        sound = np.flatnonzero(fresh & ~self.flags)
        drawn = self.rng.choice(sound, min(round(controls * budget), room, len(sound)), replace=False)
        open_rows = np.setdiff1d(np.flatnonzero(fresh & (self.flags | beyond)), drawn)
        worst = open_rows[np.lexsort((self.quality[open_rows], ~self.flags[open_rows]))][: room - len(drawn)]
        asked = np.concatenate([drawn, worst]).astype(np.int64)
        self.said[asked], self.said[again] = 1, 2
        self.doubt[asked], self.flagged[asked] = doubt_of(self.quality[asked]), self.flags[asked]
        self.shares[asked] = self.others[asked]

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
        given, shares = self.given[rows], self.shares[rows]
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
        found = Answers(self.doubt[rows], self.flagged[rows], same, other, rest, share, self.pool.n_classes)
        return rows, found, np.where(other > 0, top, -1)

    def wrong_estimate(self) -> tuple[float, float, float]:
        """Labels still wrong: estimate and interval."""
        assert self.beliefs is not None
        _, answers, _ = self.answers()
        left = self.said == 0
        found = still_wrong(
            self.beliefs, answers, self.changed, doubt_of(self.quality[left]), self.flags[left], seed=self.seed
        )
        return (found.value, *(found.ci or (0.0, 0.0)))


def left_out(
    features: Features, labels: Columns, n_classes: int, penalty: float = PENALTY, settled: Mask | None = None
) -> Floats:
    """Out-of-sample probabilities (rows, classes) by ridge regression in closed form, in two rounds."""
    inputs = np.concatenate([features, np.ones((len(features), 1), dtype=np.float32)], axis=1)
    lower = np.linalg.cholesky((inputs.T @ inputs).astype(np.float64) + penalty * np.eye(inputs.shape[1]))
    half = solve_triangular(lower.astype(np.float32), inputs.T, lower=True, check_finite=False).T
    half = np.ascontiguousarray(half)
    alone = np.arange(len(labels))

    def probabilities(learned: Columns) -> Floats:
        targets = (np.eye(n_classes, dtype=np.float32)[learned] - 1 / n_classes).astype(np.float32)
        values = leave_out_ridge(half, half @ (half.T @ targets), targets, alone)
        return apply_temperature(values, temperature(values, labels))

    first = probabilities(labels)
    return np.asarray(FIRST_ROUND * first + (1 - FIRST_ROUND) * probabilities(corrected_labels(first, labels, settled)))


def run_project(pool: Pool, answers: str, seed: int) -> Outcome:
    """One project from import to report."""
    began = time.perf_counter()
    project = Project(pool, answers, seed)
    for number in range(ROUNDS):
        project.score()
        project.review(BATCH)
        project.decide(DRAWS if number == ROUNDS - 1 else 0)
    wrong, low, high = project.wrong_estimate()
    before, after = (right_rows(pool, project, labels) for labels in (project.given, project.labels))
    gain = compared(before, after, project, pool.truth)
    as_given = compared(before, after, project, pool.given)
    nulled = swapped(project) if answers == "human" else resampled(project)
    null = compared(*(right_rows(pool, project, labels, rows) for labels, rows in nulled), project, pool.truth)
    return Outcome(
        pool.name, answers, seed, project.reviews,
        int((project.given != project.truth).sum()), int((project.labels != project.truth).sum()), wrong, low, high,
        int((project.labels != project.given).sum()), gain[0], *gain[1:], *as_given[1:], *null[2:],
        time.perf_counter() - began,
    )  # fmt: skip


def right_rows(pool: Pool, project: Project, labels: Columns, rows: Columns | None = None) -> Columns:
    """What a head trained on these labels (of these rows, by default all) predicts for every image of the pool.

    -1 for those of train, which nothing is measured on.
    """
    chosen = np.arange(len(labels)) if rows is None else rows
    head = fit_head(TrainingSet(project.features[chosen], labels[chosen]), pool.n_classes, PENALTY)
    rest = np.concatenate([project.held, project.hidden])
    predicted = np.full(len(pool.truth), -1, dtype=np.int64)
    predicted[rest] = predict_head(head, pool.features[rest])
    return predicted


def compared(before: Columns, after: Columns, project: Project, labels: Columns) -> tuple[float, float, float, float]:
    """The gain on the hidden truth; its estimate and interval on the holdout, labeled by ``labels``."""
    hidden, held, truth = project.hidden, project.held, project.pool.truth
    gain = float((after[hidden] == truth[hidden]).mean() - (before[hidden] == truth[hidden]).mean())
    was, now = before[held] == labels[held], after[held] == labels[held]
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    return (gain, (gained - lost) / len(held), *paired_interval(gained, lost, len(held)))


def swapped(project: Project) -> list[tuple[Columns, Columns | None]]:
    """Nothing to gain: a tenth of the labels, at random, by another person who errs as often."""
    labels = project.given.copy()
    chosen = project.rng.choice(len(labels), len(labels) // 10, replace=False)
    labels[chosen] = project.people[chosen, 0]
    return [(project.given, None), (labels, None)]


def resampled(project: Project) -> list[tuple[Columns, Columns | None]]:
    """Nothing to gain: right labels, and two draws of the rows to train on."""
    size = len(project.truth)
    return [(project.truth, project.rng.integers(size, size=size)) for _ in range(2)]


# --- when to stop


@dataclass(frozen=True)
class Reviewed:
    """A project reviewed to its end: after each round the reviews, clean accuracy, and what the next ones promise.

    ``promised`` is how many labels a review of the next 50 is expected to put right; ``counted`` how many issues
    cleanlab's own filter counts before the first review.
    """

    answers: str
    seed: int
    reviews: tuple[int, ...]
    accuracy: tuple[float, ...]
    promised: tuple[float, ...]
    counted: int


def run_path(pool: Pool, answers: str, seed: int) -> Reviewed:
    """Review a project in rounds until every label was looked at."""
    from cleanlab.filter import find_label_issues

    project = Project(pool, answers, seed)
    reviews, accuracy, promised = [0], [accuracy_of(project)], [1.0]
    counted = len(
        find_label_issues(
            project.given, left_out(project.features, project.given, pool.n_classes),
            return_indices_ranked_by="self_confidence", n_jobs=1,
        )
    )  # fmt: skip
    for share in STOP_ROUNDS:
        project.score()
        project.review(round(share * len(project.given)), beyond=True)
        project.decide()
        reviews.append(project.reviews)
        accuracy.append(accuracy_of(project))
        promised.append(promise(project))
    return Reviewed(answers, seed, tuple(reviews), tuple(accuracy), tuple(promised), counted)


def accuracy_of(project: Project) -> float:
    """Clean accuracy of a head trained on the labels as they are now, on all images outside of the training set."""
    rest = np.concatenate([project.held, project.hidden])
    predicted = right_rows(project.pool, project, project.labels)[rest]
    return float((predicted == project.pool.truth[rest]).mean())


def promise(project: Project) -> float:
    """Labels put right by a review of the next 50, as ``curation.audit.recommend`` expects."""
    assert project.beliefs is not None
    left = np.flatnonzero(project.said == 0)
    order = left[np.lexsort((project.quality[left], ~project.flags[left]))][:50]
    rates = project.beliefs.wrong_rate(doubt_of(project.quality[order]), project.flags[order])
    return float(rates.mean() * project.beliefs.finds.mean()) if len(order) else 0.0


def stopped(path: Reviewed, rule: str) -> int:
    """The round after which a rule stops: ``ours``, ``cleanlab's count``, or a number of reviews."""
    if rule == "ours":
        return next((n for n, promised in enumerate(path.promised) if promised < LEAST_YIELD), len(path.reviews) - 1)
    budget = path.counted if rule == "cleanlab's count" else int(rule)
    return max(n for n, reviews in enumerate(path.reviews) if n == 0 or reviews <= budget)


def stops_of(paths: Sequence[Reviewed]) -> list[dict[str, Any]]:
    """What each rule loses of the gain at the best stopping point, and which share of its reviews it takes.

    The best stopping point is the round after which the projects of a kind have gained most on their mean. By
    hindsight every project has a better one of its own, but that is the luckiest of a dozen noisy accuracies, which no
    rule reaches, not even to review every label; what is lost against it stands beside.
    """
    rows = []
    for kind in dict.fromkeys(p.answers for p in paths):
        own = [p for p in paths if p.answers == kind]
        gains = np.array([p.accuracy for p in own]) - np.array([p.accuracy[:1] for p in own])
        reviews = np.array([p.reviews for p in own])
        best = int(gains.mean(axis=0).argmax())
        drawn = np.random.default_rng(0).integers(len(own), size=(DRAWS, len(own)))
        for rule in RULES:
            at = np.array([stopped(p, rule) for p in own])
            gained, taken = gains[np.arange(len(own)), at], reviews[np.arange(len(own)), at]
            lost = 1 - gained[drawn].mean(axis=1) / gains[drawn, best].mean(axis=1)
            rows.append(
                {
                    "answers": kind, "rule": rule, "projects": len(own), "reviews": float(taken.mean()),
                    "lost": float(1 - gained.mean() / gains[:, best].mean()),
                    "lost_interval": np.quantile(lost, [0.025, 0.975]).tolist(),
                    "lost_by_hindsight": float(1 - gained.mean() / gains.max(axis=1).mean()),
                    "of_best_reviews": float(taken.mean() / reviews[:, best].mean()),
                    "of_all_reviews": float(taken.mean() / reviews[:, -1].mean()),
                    "best_reviews": float(reviews[:, best].mean()), "best_gain": float(gains[:, best].mean()),
                }
            )  # fmt: skip
    return rows


# --- credit


@dataclass(frozen=True)
class Named:
    """A planted case and the causes that the credit report named."""

    case: str
    seed: int
    planted: tuple[str, ...]
    named: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dimmed:
    """CIFAR-10N images twice: as they are, and made dark; features (images, d); columns of labels (images,)."""

    plain: Features
    dark: Features
    truth: Columns
    noisy: Columns
    another: Columns


CASES = {
    "relabeling": ("relabeling",), "augmentation": ("augmentation",), "both": ("augmentation", "relabeling"),
    "neither": (),
}  # fmt: skip


def run_credit(images: Dimmed, case: str, seed: int) -> Named:
    """A project in which this and nothing else helps, and the causes that are named.

    Where relabeling helps, the labels are CIFAR-10N's worst, of which a third is put right; elsewhere they are right,
    and relabeling exchanges a twentieth of them for what a person said at random, which is seldom better. Where
    augmentation helps, two fifths of the holdout are dark and no image of train is; it adds dark copies of half of
    train. Elsewhere the copies are added to no end.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images.truth))
    rows, held = order[:2_000], order[2_000:3_500]
    planted = CASES[case]
    given, relabeled = images.truth[rows].copy(), images.truth[rows].copy()
    if "relabeling" in planted:
        given = images.noisy[rows].copy()
        wrong = np.flatnonzero(given != images.truth[rows])
        keep = rng.permutation(wrong)[len(rows) // 3 :]
        relabeled[keep] = given[keep]
    else:
        some = rng.permutation(len(rows))[: len(rows) // 20]
        given[some], relabeled[some] = images.noisy[rows][some], images.another[rows][some]
    dark = rng.random(len(held)) < (0.4 if "augmentation" in planted else 0.0)
    measured = TrainingSet(np.where(dark[:, None], images.dark[held], images.plain[held]), images.truth[held])
    copied = rng.permutation(len(rows))[: len(rows) // 2]
    features = np.concatenate([images.plain[rows], images.dark[rows[copied]]])

    def with_copies(labels: Columns) -> TrainingSet:
        return TrainingSet(features, np.concatenate([labels, labels[copied]]))

    credits = credit_actions(
        TrainingSet(images.plain[rows], given),
        {
            "relabeling": TrainingSet(images.plain[rows], relabeled), "augmentation": with_copies(given),
            "all": with_copies(relabeled),
        },
        measured, int(images.truth.max()) + 1,
    )  # fmt: skip
    return Named(case, seed, planted, tuple(sorted(causes(credits))))


def dimmed_images(archive: Path, cache: Path, count: int = 4_000) -> Dimmed:
    """Features at 112 px of the first images, and of the same at a fifth of their brightness."""
    import pandas as pd
    from PIL import Image

    kept = cache / f"dimmed-{count}.npz"
    table = cifar_table(archive, cache)
    images = pd.read_csv(table, dtype=str)[:count]
    if not kept.exists():
        from curation.backbone import load_backbone
        from curation.features import FeatureStore
        from curation.images import PixelCache

        store = FeatureStore(load_backbone("tf_efficientnet_lite0", size=112), PixelCache(cache, 112), cache)
        pixels = np.stack([np.asarray(Image.open(table.parent / p).resize((112, 112))) for p in images["path"]])
        both = np.concatenate([store.encode(pixels)[0], store.encode((0.2 * pixels).astype(np.uint8))[0]])
        reduced_both = principal_components(scale(both), COMPONENTS, 0)
        np.savez(kept, plain=reduced_both[:count], dark=reduced_both[count:])
    features = np.load(kept)
    names = sorted(set(images["clean_label"]))
    columns = [
        np.array([names.index(label) for label in images[name]], dtype=np.int64)
        for name in ("clean_label", "worse_label", "random_label2")
    ]
    return Dimmed(features["plain"], features["dark"], *columns)


# --- claims


def share_with_interval(hits: Sequence[bool]) -> tuple[float, tuple[float, float]]:
    """A share and its Wilson interval."""
    return float(np.mean(hits)), wilson_interval(int(np.sum(hits)), len(hits))


def claims_of(outcomes: Sequence[Outcome], paths: Sequence[Reviewed], named: Sequence[Named]) -> list[dict[str, Any]]:
    """What must hold, for each kind of answers."""
    claims: list[dict[str, Any]] = []

    def claim(name: str, hits: Sequence[bool], bar: Any, holds: Any) -> None:
        value, ci = share_with_interval(hits)
        held = bool(holds(value, ci))
        claims.append({"name": name, "value": value, "ci": ci, "bar": bar, "holds": held, "projects": len(hits)})

    def near(value: float, ci: tuple[float, float]) -> bool:
        return 0.93 <= value <= 0.97

    for kind in dict.fromkeys(o.answers for o in outcomes):
        own = [o for o in outcomes if o.answers == kind]
        claim(f"{kind}: the interval of labels still wrong holds the truth",
              [o.wrong_low <= o.wrong <= o.wrong_high for o in own], [0.93, 0.97], near)  # fmt: skip
        claim(f"{kind}: the interval of the gain holds the truth",
              [o.gain_low <= o.gain <= o.gain_high for o in own], [0.93, 0.97], near)  # fmt: skip
        claim(f"{kind}: a gain is claimed where there is none",
              [o.null_low > 0 for o in own], 0.05, lambda value, ci: ci[1] <= 0.05)  # fmt: skip
        claim(f"{kind}: reviewing made the labels worse",
              [o.wrong > o.wrong_at_first for o in own], 0.05, lambda value, ci: value <= 0.05)  # fmt: skip
    for row in stops_of(paths):
        if row["rule"] == "ours":
            for what, bar in (("lost", 0.1), ("of_best_reviews", 0.5)):
                words = {
                    "lost": "share of the best gain lost by stopping",
                    "of_best_reviews": "reviews over the best's",
                }
                ci = row["lost_interval"] if what == "lost" else None
                claims.append({"name": f"{row['answers']}: {words[what]}", "value": row[what], "bar": bar,
                               "ci": ci, "holds": bool(row[what] <= bar), "projects": row["projects"]})  # fmt: skip
    if named:
        claim("credit: the right cause is named", [n.named == n.planted for n in named], 0.9,
              lambda value, ci: value >= 0.9)  # fmt: skip
    return claims


def summary_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Means by pool and kind of answers, with where the truth lay when an interval missed it."""
    rows = []
    for pool, kind in dict.fromkeys((o.pool, o.answers) for o in outcomes):
        own = [o for o in outcomes if (o.pool, o.answers) == (pool, kind)]

        def mean(value: Any, own: Sequence[Outcome] = own) -> float:
            return float(np.mean([value(o) for o in own]))

        rows.append(
            {
                "pool": pool, "answers": kind, "projects": len(own), "reviews": mean(lambda o: o.reviews),
                "wrong_at_first": mean(lambda o: o.wrong_at_first), "wrong": mean(lambda o: o.wrong),
                "wrong_estimate": mean(lambda o: o.wrong_estimate),
                "wrong_interval": [mean(lambda o: o.wrong_low), mean(lambda o: o.wrong_high)],
                "wrong_covered": mean(lambda o: o.wrong_low <= o.wrong <= o.wrong_high),
                "wrong_above_interval": mean(lambda o: o.wrong > o.wrong_high),
                "wrong_below_interval": mean(lambda o: o.wrong < o.wrong_low),
                "gain": mean(lambda o: o.gain), "gain_estimate": mean(lambda o: o.gain_estimate),
                "gain_width": mean(lambda o: o.gain_high - o.gain_low),
                "gain_covered": mean(lambda o: o.gain_low <= o.gain <= o.gain_high),
                "gain_shown": mean(lambda o: o.gain_low > 0),
                "gain_on_holdout_as_given": mean(lambda o: o.gain_as_given),
                "gain_as_given_covered": mean(lambda o: o.gain_as_given_low <= o.gain <= o.gain_as_given_high),
                "null_claimed": mean(lambda o: o.null_low > 0),
                "labels_got_worse": mean(lambda o: o.wrong > o.wrong_at_first), "seconds": mean(lambda o: o.seconds),
            }
        )  # fmt: skip
    return rows


# --- data


def pools_of(options: argparse.Namespace, cache: Path) -> dict[str, list[Pool]]:
    """Pools to draw projects from for each kind of answers."""
    perfect: list[Pool] = []
    human: list[Pool] = []
    if options.cifar10n:
        every = pools_from_cifar(Path(options.cifar10n), cache)
        perfect += [every["random_label1"], every["aggre_label"]]
        human.append(every["random_label1"])
    if options.elpv:
        for case in elpv_cases(None, cache, 0)[:1]:
            nobody = case.truth[:, None]
            perfect.append(Pool(case.name, reduced(case, cache), case.given, case.truth, nobody, 2, 800, 150))
    if not perfect:
        print("no images given: measuring on scikit-learn's digits with planted errors; see --help for real ones")
        perfect = human = list(digits_pools(cache).values())
    return {"perfect": perfect, "human": human}


def pools_from_cifar(archive: Path, cache: Path) -> dict[str, Pool]:
    """A pool for each label set of CIFAR-10N; annotators 2 and 3 answer."""
    cases = {case.name: case for case in cifar_cases(archive, None, cache)}
    features = reduced(cases["random_label1"], cache)
    third = cifar_column(cache, "random_label3", cases["random_label1"])
    people = np.stack([cases["random_label2"].given, third], axis=1)
    return {name: Pool(name, features, case.given, case.truth, people, len(case.names)) for name, case in cases.items()}


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
    kept = cache / f"components-{case.name.split(',')[0].replace(' ', '-')}-{len(case.truth)}.npy"
    if kept.exists():
        return np.asarray(np.load(kept))
    found = principal_components(scale(case.features if case.views is None else case.views), COMPONENTS, 0)
    np.save(kept, found)
    return found


def cifar_table(archive: Path, cache: Path) -> Path:
    """CIFAR-10N's table, unpacked where it is not yet."""
    import zipfile

    folder = cache / "cifar10n"
    if not folder.exists():
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    return next(folder.rglob("train.csv"))


def cifar_column(cache: Path, name: str, case: Case) -> Columns:
    """Another column of CIFAR-10N's table, which ``cifar_cases`` has unpacked."""
    import pandas as pd

    table = pd.read_csv(next((cache / "cifar10n").rglob("train.csv")), dtype=str)
    return np.array([case.names.index(label) for label in table[name]], dtype=np.int64)


# --- running


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} projects a kind of answers")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--elpv", action="store_true", help="ELPV with flipped labels too (package elpv-dataset)")
    parser.add_argument("--cache", type=Path, help="keep features here for the next time")
    parser.add_argument("--projects", type=int, default=PROJECTS, help="how many for each kind of answers")
    parser.add_argument("--paths", type=int, default=100, help="projects reviewed to their end, for the stop rule")
    parser.add_argument("--credits", type=int, default=100, help="projects for each planted case of credit")
    parser.add_argument("--only", choices=("perfect", "human"), help="one kind of answers")
    parser.add_argument("--part", default="0/1", help="i/n: the i-th of n parts of the projects")
    parser.add_argument("--merge", type=Path, nargs="+", help="put the JSON of parts together instead of running")
    options = parser.parse_args(arguments)
    if options.quick:
        options.projects, options.paths, options.credits = QUICK, QUICK // 10, QUICK // 4
    return options


@dataclass(frozen=True)
class Found:
    """All that was measured."""

    outcomes: list[Outcome]
    paths: list[Reviewed]
    named: list[Named]


def run(options: argparse.Namespace) -> Found:
    """Everything of this part."""
    part, parts = map(int, options.part.split("/"))
    found = Found([], [], [])
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        pools = pools_of(options, cache)
        images = dimmed_images(Path(options.cifar10n), cache) if options.cifar10n and options.credits else None
    for kind, among in pools.items():
        if options.only in (None, kind):
            for seed in range(part, options.projects, parts):
                found.outcomes.append(run_project(among[seed % len(among)], kind, seed))
                if len(found.outcomes) % 50 == 0:
                    print(f"{len(found.outcomes)} projects", file=sys.stderr, flush=True)
            found.paths.extend(run_path(among[0], kind, seed) for seed in range(part, options.paths, parts))
    if images is not None and options.only in (None, "perfect"):
        found.named.extend(run_credit(images, case, s) for s in range(part, options.credits, parts) for case in CASES)
    return found


def merged(files: Sequence[Path]) -> Found:
    """What the parts of a run have found."""
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def lists(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    return Found(
        [Outcome(**values) for part in parts for values in part["outcomes"]],
        [Reviewed(**lists(values)) for part in parts for values in part["paths"]],
        [Named(**lists(values)) for part in parts for values in part["named"]],
    )


def show(
    rows: Sequence[Mapping[str, Any]], stops: Sequence[Mapping[str, Any]], named: Sequence[Named], claims: Sequence[Any]
) -> None:
    """The tables."""
    for row in rows:
        print(f"{row['pool']}, {row['answers']} answers, {row['projects']} projects:")
        for name, value in list(row.items())[3:]:
            said = " to ".join(f"{v:.1f}" for v in value) if isinstance(value, list) else f"{value:.3f}"
            print(f"    {name:36}{said}")
    for row in stops:
        print(
            f"stopping, {row['answers']} answers, {row['rule']:16} {row['reviews']:6.0f} reviews, "
            f"{row['of_best_reviews']:.2f} of the best's {row['best_reviews']:.0f}, "
            f"{row['of_all_reviews']:.2f} of all; "
            f"loses {row['lost']:.1%} ({row['lost_interval'][0]:.1%} to {row['lost_interval'][1]:.1%}) of "
            f"{100 * row['best_gain']:.1f}, by hindsight {row['lost_by_hindsight']:.1%}"
        )
    for case in dict.fromkeys(n.case for n in named):
        right, (low, high) = share_with_interval([n.named == n.planted for n in named if n.case == case])
        print(f"credit where it is {case}: the right cause named in {right:.3f} ({low:.3f} to {high:.3f})")
    for claim in claims:
        low, high = claim["ci"] or (claim["value"], claim["value"])
        print(f"{'holds' if claim['holds'] else 'FAILS'}: {claim['name']} = {claim['value']:.3f} "
              f"({low:.3f} to {high:.3f}, {claim['projects']} projects; bar {claim['bar']})")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 where a claim does not hold."""
    options = read_options(arguments)
    found = merged(options.merge) if options.merge else run(options)
    rows, stops = summary_of(found.outcomes), stops_of(found.paths)
    claims = claims_of(found.outcomes, found.paths, found.named)
    show(rows, stops, found.named, claims)
    if options.json:
        written = {"claims": claims, "summary": rows, "stops": stops, **asdict(found)}
        options.json.write_text(json.dumps(written) + "\n", encoding="utf-8")
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
