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
from curation.audit import still_wrong, wilson_interval
from curation.credit import TrainingSet, fit_head, predict_head
from curation.evidence import SURE, Answers, Beliefs, doubt_of, learn
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
        self.pool, self.rng, self.seed = pool, rng, seed
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
        probabilities = left_out(self.features, self.labels, self.pool.n_classes)
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

    def decide(self, *, relearn: bool = True) -> None:
        """Learn from all answers, change the labels that are wrong, note which need another opinion."""
        rows, answers, top = self.answers()
        if relearn or self.beliefs is None:
            self.beliefs = learn(answers, self.seed)
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


def left_out(features: Features, labels: Columns, n_classes: int, penalty: float = PENALTY) -> Floats:
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
    return np.asarray(FIRST_ROUND * first + (1 - FIRST_ROUND) * probabilities(corrected_labels(first, labels)))


def run_project(pool: Pool, answers: str, seed: int) -> Outcome:
    """One project from import to report."""
    began = time.perf_counter()
    project = Project(pool, answers, seed)
    for _ in range(ROUNDS):
        project.score()
        project.review(BATCH)
        project.decide()
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
    """What a head trained on these labels (of these rows, by default all) predicts for every image of the pool."""
    chosen = np.arange(len(labels)) if rows is None else rows
    head = fit_head(TrainingSet(project.features[chosen], labels[chosen]), pool.n_classes, PENALTY)
    return predict_head(head, pool.features)


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


# --- claims


def share_with_interval(hits: Sequence[bool]) -> tuple[float, tuple[float, float]]:
    """A share and its Wilson interval."""
    return float(np.mean(hits)), wilson_interval(int(np.sum(hits)), len(hits))


def claims_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
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
    rng = np.random.default_rng(0)
    perfect: list[Pool] = []
    human: list[Pool] = []
    if options.cifar10n:
        cases = {case.name: case for case in cifar_cases(Path(options.cifar10n), None, cache)}
        features = reduced(next(iter(cases.values())), cache)
        third = cifar_column(cache, "random_label3", cases["random_label1"])
        people = np.stack([cases["random_label2"].given, third], axis=1)
        for name in ("random_label1", "aggre_label"):
            case = cases[name]
            perfect.append(Pool(name, features, case.given, case.truth, people, len(case.names)))
        first = cases["random_label1"]
        human.append(Pool("random_label1", features, first.given, first.truth, people, len(first.names)))
    if options.elpv:
        for case in elpv_cases(None, cache, 0)[:1]:
            nobody = case.truth[:, None]
            perfect.append(Pool(case.name, reduced(case, cache), case.given, case.truth, nobody, 2, 1_000, 250))
    if not perfect:
        print("no images given: measuring on scikit-learn's digits with planted errors; see --help for real ones")
        case = digits_case()
        people = np.stack([erring(case.truth, 0.12, rng) for _ in range(2)], axis=1)
        pool = Pool(case.name, reduced(case, cache), case.given, case.truth, people, 10, 800, 300)
        perfect, human = [pool], [pool]
    return {"perfect": perfect, "human": human}


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
    parser.add_argument("--only", choices=("perfect", "human"), help="one kind of answers")
    parser.add_argument("--part", default="0/1", help="i/n: the i-th of n parts of the projects")
    parser.add_argument("--merge", type=Path, nargs="+", help="put the JSON of parts together instead of running")
    options = parser.parse_args(arguments)
    if options.quick:
        options.projects = QUICK
    return options


def run(options: argparse.Namespace) -> list[Outcome]:
    """All projects of this part."""
    part, parts = map(int, options.part.split("/"))
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary:
        pools = pools_of(options, options.cache or Path(temporary))
    for kind, among in pools.items():
        if options.only in (None, kind):
            for seed in range(part, options.projects, parts):
                outcomes.append(run_project(among[seed % len(among)], kind, seed))
                if len(outcomes) % 50 == 0:
                    print(f"{len(outcomes)} projects", file=sys.stderr, flush=True)
    return outcomes


def show(rows: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]]) -> None:
    """The tables."""
    for row in rows:
        print(f"{row['pool']}, {row['answers']} answers, {row['projects']} projects:")
        for name, value in list(row.items())[3:]:
            said = " to ".join(f"{v:.1f}" for v in value) if isinstance(value, list) else f"{value:.3f}"
            print(f"    {name:36}{said}")
    for claim in claims:
        low, high = claim["ci"]
        print(f"{'holds' if claim['holds'] else 'FAILS'}: {claim['name']} = {claim['value']:.3f} "
              f"({low:.3f} to {high:.3f}, {claim['projects']} projects; bar {claim['bar']})")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 where a claim does not hold."""
    options = read_options(arguments)
    if options.merge:
        written = [json.loads(file.read_text(encoding="utf-8"))["outcomes"] for file in options.merge]
        outcomes = [Outcome(**values) for part in written for values in part]
    else:
        outcomes = run(options)
    rows, claims = summary_of(outcomes), claims_of(outcomes)
    show(rows, claims)
    if options.json:
        written = {"claims": claims, "summary": rows, "outcomes": [asdict(o) for o in outcomes]}
        options.json.write_text(json.dumps(written) + "\n", encoding="utf-8")
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
