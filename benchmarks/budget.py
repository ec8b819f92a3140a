"""What reviews buy: errors fixed and clean accuracy against labels reviewed, ours against what a user would pick.

Projects of 2,000 labels are drawn as in ``proof.py``; everyone works on the same features, is answered by the same
people, and has his labels judged by the head on views that the toolkit trains, on images that nobody trained on.
Answers are right (``perfect``) or those of real people (``human``: ``random_label1`` is given, the other two annotators
answer). Contenders:

- ours: the queue as it is shipped, a tenth of it controls; judged anew after each batch, decided by the evidence;
- ours, no controls: the same without them;
- cleanlab: its order by self-confidence of five folds of tuned logistic regression, once, answers taken at their word;
- ActiveLab: cleanlab's active learning scores and consensus, judged anew after each batch by the same probabilities
  as ours; may ask again about an image as long as there is somebody who has not answered;
- random; and the oracle, who knows which labels are wrong and reviews those first, answers taken at their word.

    python benchmarks/budget.py --cifar10n cifar10n.zip --seeds 6 --json budget.json --plot budget.png

``--part i/n`` runs every n-th of the projects, and ``--merge FILE...`` puts the parts' JSON together.

Areas are under the curve from no review to as many as there are labels, as a share of the largest possible. Errors
fixed are net: those that reviewing put in count against it. Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.claims import conclude
from benchmarks.detection import TUNED
from benchmarks.projects import Pool, Project, TrainedHead, digits_pools, pools_from_cifar
from curation.scoring import label_quality

Columns = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Reviews between two points of a curve, as a share of the labels.
STEP = 0.05
#: Accuracy is measured after every so many steps.
ACCURACY_EVERY = 2
OURS, ORACLE = "ours", "oracle"
#: DataPerf's bar: this share of the accuracy that right labels give.
REACHED = 0.95


@dataclass(frozen=True)
class Curve:
    """One contender on one project: net share of errors fixed after each step of reviews, and clean accuracy."""

    pool: str
    answers: str
    contender: str
    seed: int
    fixed: tuple[float, ...]
    accuracy: tuple[float, ...]
    accuracy_of_truth: float

    @property
    def area_fixed(self) -> float:
        """Area under the errors fixed, as a share of the largest possible."""
        return float(np.trapezoid(self.fixed) / (len(self.fixed) - 1))

    @property
    def area_accuracy(self) -> float:
        """Mean clean accuracy over the reviews."""
        return float(np.trapezoid(self.accuracy) / (len(self.accuracy) - 1))

    @property
    def inspected(self) -> float:
        """Share of the labels reviewed until ``REACHED`` of the accuracy of right labels is reached; 1 if never."""
        reached = np.flatnonzero(np.array(self.accuracy) >= REACHED * self.accuracy_of_truth)
        return float(reached[0] / (len(self.accuracy) - 1)) if len(reached) else 1.0


Review = Callable[[Project, int], None]


# --- contenders: each reviews some more labels of a project


def ours(controls: float) -> Callable[[Project], Review]:
    """Our queue with this share of controls."""

    def begin(project: Project) -> Review:
        def review(project: Project, budget: int) -> None:
            project.score()
            project.review(budget, controls, beyond=True)
            project.decide()

        return review

    return begin


def in_order(order: Columns) -> Review:
    """A fixed order, one answer each, taken at its word."""

    def review(project: Project, budget: int) -> None:
        done = int((project.said > 0).sum())
        take_at_word(project, order[done : done + budget])

    return review


def take_at_word(project: Project, rows: Columns) -> None:
    """One person answers, and that is the label."""
    project.said[rows] = 1
    project.labels[rows] = project.people[rows, 0]


def cleanlab_order(project: Project) -> Review:
    """Self-confidence of five tuned folds, as its users do."""
    return in_order(np.argsort(label_quality(tuned_folds(project), project.given), kind="stable"))


def tuned_folds(project: Project) -> Floats:
    """Out-of-fold probabilities of logistic regression, the strength chosen by its own log loss."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    labels, rows = project.given, np.arange(len(project.given))
    folds = list(StratifiedKFold(5, shuffle=True, random_state=project.seed).split(rows, labels))
    best, least = np.zeros((0, 0)), np.inf
    for strength in TUNED[:4]:
        found = np.zeros((len(labels), project.pool.n_classes))
        for train, held in folds:
            fitted = LogisticRegression(C=strength, max_iter=100, tol=1e-3).fit(project.features[train], labels[train])
            found[np.ix_(held, fitted.classes_)] = fitted.predict_proba(project.features[held])
        loss = float(-np.log(np.maximum(found[rows, labels], 1e-12)).mean())
        if loss < least:
            best, least = found, loss
    return best


def active_lab(project: Project) -> Review:
    """cleanlab's ActiveLab, with the consensus that it gives."""
    from cleanlab.multiannotator import get_active_learning_scores, get_label_quality_multiannotator

    def review(project: Project, budget: int) -> None:
        probabilities = np.clip(project.judge.left_out(project.labels), 1e-6, 1)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        scores, _ = get_active_learning_scores(answers_so_far(project), probabilities)
        most = project.people.shape[1] if project.human else 1
        open_rows = np.flatnonzero(project.said < most)
        chosen = open_rows[np.argsort(scores[open_rows], kind="stable")][:budget]
        project.said[chosen] += 1
        found = get_label_quality_multiannotator(
            answers_so_far(project), probabilities, return_detailed_quality=False, return_annotator_stats=False,
            verbose=False,
        )  # fmt: skip
        project.labels = found["label_quality"]["consensus_label"].to_numpy().astype(np.int64)

    return review


def answers_so_far(project: Project) -> Any:
    """The given labels as one annotator's, beside those who have answered; NaN where nobody said anything."""
    import pandas as pd

    columns = [project.given.astype(float)]
    for person in range(project.people.shape[1]):
        said = project.said > person
        if said.any():
            columns.append(np.where(said, project.people[:, person].astype(float), np.nan))
    return pd.DataFrame(np.stack(columns, axis=1))


def at_random(project: Project) -> Review:
    """Any order."""
    return in_order(np.random.default_rng(project.seed).permutation(len(project.given)))


def oracle(project: Project) -> Review:
    """Wrong labels first; right ones are left alone: he knows them."""
    wrong = np.flatnonzero(project.given != project.truth)

    def review(project: Project, budget: int) -> None:
        done = int((project.said > 0).sum())
        chosen = wrong[done : done + budget]
        project.said[chosen] = 1
        project.labels[chosen] = project.people[chosen, 0]

    return review


CONTENDERS: dict[str, Callable[[Project], Review]] = {
    OURS: ours(0.1), "ours, no controls": ours(0.0), "cleanlab": cleanlab_order, "ActiveLab": active_lab,
    "random": at_random, ORACLE: oracle,
}  # fmt: skip


# --- curves


def run_contender(pool: Pool, answers: str, contender: str, seed: int, head: TrainedHead) -> Curve:
    """One contender's curve on one project; ``head`` is that of a project of this seed and these images."""
    project = Project(pool, answers, seed)
    review = CONTENDERS[contender](project)
    steps = round(1 / STEP)
    wrong = int((project.given != project.truth).sum())
    fixed, accuracy = [0.0], [head.accuracy(project.labels)]
    assert steps % ACCURACY_EVERY == 0
    for number in range(steps):
        budget = round((number + 1) * len(project.given) / steps) - round(number * len(project.given) / steps)
        review(project, budget)
        fixed.append(1 - int((project.labels != project.truth).sum()) / max(wrong, 1))
        if (number + 1) % ACCURACY_EVERY == 0:
            accuracy.append(head.accuracy(project.labels))
    return Curve(pool.name, answers, contender, seed, tuple(fixed), tuple(accuracy), head.accuracy(project.truth))


def summary_of(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Means over seeds."""
    rows = []
    for pool, kind, contender in dict.fromkeys((c.pool, c.answers, c.contender) for c in curves):
        own = [c for c in curves if (c.pool, c.answers, c.contender) == (pool, kind, contender)]
        rows.append(
            {
                "pool": pool, "answers": kind, "contender": contender, "seeds": len(own),
                "area_fixed": float(np.mean([c.area_fixed for c in own])),
                "area_accuracy": float(np.mean([c.area_accuracy for c in own])),
                "inspected": float(np.mean([c.inspected for c in own])),
                "fixed": np.mean([c.fixed for c in own], axis=0).tolist(),
                "accuracy": np.mean([c.accuracy for c in own], axis=0).tolist(),
                "accuracy_of_truth": float(np.mean([c.accuracy_of_truth for c in own])),
            }
        )  # fmt: skip
    return rows


def claims_of(rows: Sequence[dict[str, Any]], curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Ours above everybody but the oracle, on every label set, and near the oracle where answers are right.

    Differences come with their 95 % interval over the projects, which are the same for everybody (Student's t).
    """
    claims = []
    for pool, kind in dict.fromkeys((r["pool"], r["answers"]) for r in rows):
        own = {r["contender"]: r for r in rows if (r["pool"], r["answers"]) == (pool, kind)}
        for area in ("area_fixed", "area_accuracy"):
            rival, best = max(
                ((n, r[area]) for n, r in own.items() if not n.startswith(OURS) and n != ORACLE), key=lambda p: p[1]
            )
            value = own[OURS][area] - best
            name = f"{pool}, {kind} answers: {area.replace('_', ' ')} minus that of the best other ({rival})"
            areas = [
                np.array([getattr(c, area) for c in curves if (c.pool, c.answers, c.contender) == (pool, kind, who)])
                for who in (OURS, rival)
            ]
            claims.append(
                {"name": name, "value": value, "ci": about(areas[0] - areas[1]), "bar": 0.0, "holds": bool(value > 0)}
            )
        if kind == "perfect":
            value = own[OURS]["area_fixed"] / own[ORACLE]["area_fixed"]
            name = f"{pool}, perfect answers: area of errors fixed over the oracle's"
            bar = 0.93 if pool == "random_label1" else None
            if bar is not None:
                claims.append({"name": name, "value": value, "bar": bar, "holds": bool(value >= bar)})
    return claims


def about(values: Floats) -> list[float] | None:
    """The 95 % interval of the mean (Student's t); ``None`` for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return [float(values.mean()) - half, float(values.mean()) + half]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table."""
    print(f"{'':38}{'area fixed':>11}{'area acc.':>11}{'inspected':>11}   fixed at 5, 10, 20, 50 %")
    for row in rows:
        points = [row["fixed"][round(share / STEP)] for share in (0.05, 0.1, 0.2, 0.5)]
        print(
            f"{row['pool'] + ', ' + row['answers']:24}{row['contender']:18}{row['area_fixed']:>7.3f}"
            f"{row['area_accuracy']:>11.4f}{row['inspected']:>11.2f}   " + "  ".join(f"{p:.3f}" for p in points)
        )


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Errors fixed against labels reviewed, one panel a label set and kind of answers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((r["pool"], r["answers"]) for r in rows))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.4), sharey=True, squeeze=False)
    for axis, (pool, kind) in zip(axes[0], panels, strict=True):
        for row in [r for r in rows if (r["pool"], r["answers"]) == (pool, kind)]:
            axis.plot(np.linspace(0, 1, len(row["fixed"])), row["fixed"], label=row["contender"])
        axis.set_title(f"{pool}, {kind}", fontsize=9)
        axis.set_xlabel("labels reviewed")
    axes[0][0].set_ylabel("errors fixed, net")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--plot", type=Path, help="draw the curves here (PNG or SVG)")
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--cache", type=Path, help="keep features here for the next time")
    parser.add_argument("--seeds", type=int, default=3, help="how many projects of each kind")
    parser.add_argument("--part", default="0/1", help="i/n: the i-th of n parts of the projects")
    parser.add_argument("--merge", type=Path, nargs="+", help="put the JSON of parts together instead of running")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds = 1
    return options


def run(options: argparse.Namespace) -> list[Curve]:
    """Every contender on all projects of this part."""
    with tempfile.TemporaryDirectory() as temporary:
        if options.cifar10n:
            every = pools_from_cifar(Path(options.cifar10n), options.cache or Path(temporary))
        else:
            print("no images given: measuring on scikit-learn's digits with planted errors; see --help for real ones")
            every = digits_pools(options.cache or Path(temporary))
    part, parts = map(int, options.part.split("/"))
    curves = []
    for seed in range(part, options.seeds, parts):
        head = None
        for name, pool in every.items():
            for kind in ("perfect", "human") if name in ("random_label1", "digits") else ("perfect",):
                head = head or TrainedHead(Project(pool, kind, seed))
                curves += [run_contender(pool, kind, contender, seed, head) for contender in CONTENDERS]
                print(f"{name}, {kind} answers, project {seed}", file=sys.stderr, flush=True)
    return curves


def merged(files: Sequence[Path]) -> list[Curve]:
    """What the parts of a run have measured."""
    found = [curve for file in files for curve in json.loads(file.read_text(encoding="utf-8"))["curves"]]
    return [Curve(**curve | {name: tuple(curve[name]) for name in ("fixed", "accuracy")}) for curve in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 where a claim does not hold."""
    options = read_options(arguments)
    curves = merged(options.merge) if options.merge else run(options)
    rows = summary_of(curves)
    show(rows)
    if options.plot:
        draw(rows, options.plot)
    measured = {"summary": rows, "curves": [asdict(c) for c in curves]}
    return conclude(claims_of(rows, curves), measured, options.json)


if __name__ == "__main__":
    sys.exit(main())
