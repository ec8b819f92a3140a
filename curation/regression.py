"""Regressions in closed form that judge each sample without its group: logistic, and with a Gaussian kernel.

One fit serves all samples: a group is taken out of it again by one Newton step or exactly, and where it is too large
for that, whole shuffled folds are left out. Strength and noise are chosen by the error on samples left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from curation.errors import RecordError
from curation.kept import Kept
from curation.scaling import nuisance_directions, principal_components, scale_of, scaled_by, without

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Method = Literal["auto", "folds", "loo", "kernel"]

#: Inverse penalties of logistic regression that are tried; which is best is read off its own out-of-sample log loss.
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0)
#: Noise levels of kernel ridge regression that are tried; which is best is read off its own leave-one-out error.
NOISES = (0.1, 0.3, 1.0, 3.0)
#: Kernel regression's share in the mean of both where features are made of several parts; elsewhere it is a half. By
#: the log loss of samples left out it would be 0.3 to 0.92 there, mostly above a half (docs/log.md).
KERNEL_SHARE = 2 / 3
#: Principal components that logistic regression is fitted on: as many of these as the work below allows.
COMPONENTS = (256, 128, 64)
_WORK = 1e11
#: A kernel's width is at least this share of the samples' mean square: distances below that are rounding.
_NARROWEST = 0.01
#: With fewer products a step than this, several threads wait for each other longer than they work.
_WORTH_THREADS = 50_000_000
#: Kernel regression is exact up to so many samples, and rests on so many of them (Nystroem) beyond.
LANDMARKS = 2000
#: With more classes kernel regression judges alone. The logistic one takes several times as long then, and from 60
#: classes on its one step leaves labels in rather than out where a class has few samples (docs/log.md).
MOST_CLASSES = 50
#: Larger groups are left out by folds: one Newton step is too far for them.
_LARGEST_STEP = 32
#: Strength and noise are chosen by the left-out error of so many groups.
_PROBED = 1000


@dataclass(frozen=True, eq=False)
class Regressions:
    """What judges labels, with its settings chosen: logistic regression, on ``reduced`` inputs, and kernel regression.

    ``kernel_share`` is that of the latter in the mean of both; ``folds`` are those of ``OutOfSample``.
    """

    logistic: LeaveOutLogistic | None
    kernel: LeaveOutKernel | None
    reduced: Features | None
    kernel_share: float
    folds: Integers
    settings: Mapping[str, float]

    def probabilities(self, learned: Integers, given: Integers) -> Floats:
        """Probabilities (samples, classes) of samples left out: the mean of both, or of one."""
        of_logistic = None if self.logistic is None else self.logistic.probabilities(learned, given)
        of_kernel = None if self.kernel is None else self.kernel.probabilities(learned, given)
        if of_logistic is None or of_kernel is None:
            return np.asarray(of_kernel if of_logistic is None else of_logistic)
        return np.asarray(self.kernel_share * of_kernel + (1 - self.kernel_share) * of_logistic)


class Inputs:
    """Samples as regressions take them, and what these work out of them before they see a label; for any labels.

    ``features`` has shape (samples, dimensions), ``groups`` (samples,), any whole numbers: what is left out together.
    ``widths`` are those of the parts that features are made of, where there are several (``part_weights``). ``rows``
    are the features moved by ``mean``, divided by ``divisor`` and brought to one length; with ``overwrite`` they take
    the features' place, which saves half of the memory. ``weights`` (samples,), above 0, are what each sample counts
    where it is learned from and where settings are chosen; 1 each where none are given. With ``altered``, the rows of
    altered copies and those of the images that they are of, both (copies,), the rows say nothing any more of what tells
    one from the other (``nuisance_directions``, kept as ``nuisance``). RecordError for features that are not finite
    numbers.
    """

    def __init__(
        self, features: Features, n_classes: int, groups: Integers, *, seed: int, widths: Sequence[int] = (),
        weights: Floats | None = None, overwrite: bool = False, altered: tuple[Integers, Integers] | None = None,
    ) -> None:  # fmt: skip
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise RecordError(
                f"features must be finite numbers, but those of {len(bad)} samples are not, first in row {bad[0]}; "
                "delete the cached features and compute them again"
            )
        self.mean, self.divisor = scale_of(features, widths)
        nothing: Integers = np.zeros(0, dtype=np.int64)
        copies, images = altered or (nothing, nothing)
        self.nuisance = nuisance_directions((features[copies] - features[images]) / self.divisor)
        self.rows = without(scaled_by(features, self.mean, self.divisor, overwrite=overwrite), self.nuisance)
        self.kernel_share = KERNEL_SHARE if len(widths) > 1 else 1 / 2
        self.n_classes = n_classes
        self.groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
        self.weights = weights
        self.seed = seed

    @cached_property
    def products(self) -> Features | None:
        """Products of all pairs of rows, what both regressions begin with; where they are smaller than the rows."""
        return self.rows @ self.rows.T if len(self.rows) <= min(LANDMARKS, self.rows.shape[1]) else None

    @cached_property
    def reduced(self) -> Features:
        """What logistic regression is fitted on."""
        count = _components(len(self.rows), self.n_classes)
        return principal_components(self.rows, count, self.seed, self.products)

    @cached_property
    def kernel(self) -> LeaveOutKernel:
        """Kernel regression, its noise not chosen yet."""
        return LeaveOutKernel(self.rows, self.n_classes, self.groups, self.seed, self.products, self.weights)


def kept_inputs(
    kept: Kept, sample_ids: Sequence[str], read: Callable[[], Features], n_classes: int, groups: Integers, *,
    seed: int, widths: Sequence[int], overwrite: bool = False,
) -> Inputs:  # fmt: skip
    """``Inputs`` of the features that ``read`` gives; those of the last time, where few samples stay the same.

    Of 2,000 samples they take some 400 MB.
    """

    def make() -> Inputs:
        return Inputs(read(), n_classes, groups, seed=seed, widths=widths, overwrite=overwrite)

    made_from = (tuple(sample_ids), groups.tobytes(), n_classes, seed, tuple(widths))
    return kept.of("regressions", made_from, make, places=1) if len(sample_ids) <= LANDMARKS else make()


def choose_regressions(inputs: Inputs, labels: Integers, *, folds: int = 5, method: Method = "auto") -> Regressions:
    """The regressions of a ``method``, strength and noise chosen by their error left out; ``labels``: (samples,)."""
    groups, n_classes = inputs.groups, inputs.n_classes
    numbers = np.full(len(labels), -1, dtype=np.int64)
    settings: dict[str, float] = {}
    logistic, kernel, reduced = None, None, None
    if method in ("loo", "folds") or (method == "auto" and n_classes <= MOST_CLASSES):
        in_folds = fold_numbers(labels, groups, folds, inputs.seed)
        steps = np.zeros(len(labels), dtype=bool) if method == "folds" else _sizes(groups) <= _LARGEST_STEP
        numbers[~steps] = in_folds[~steps]
        reduced = inputs.reduced
        logistic = LeaveOutLogistic(reduced, n_classes, groups, in_folds, steps, inputs.weights)
        settings["strength"] = logistic.choose(labels, inputs.seed)
    if method in ("auto", "kernel"):
        kernel = copy(inputs.kernel)  # with a noise of its own
        settings["noise"] = kernel.choose(labels)
    return Regressions(logistic, kernel, reduced, inputs.kernel_share, numbers, settings)


# --- folds and groups


def _components(samples: int, n_classes: int) -> int:
    return next((c for c in COMPONENTS if samples * n_classes * c**2 <= _WORK), COMPONENTS[-1])


def _sizes(groups: Integers) -> Integers:
    """How many samples each sample's group has, itself counted."""
    return np.asarray(np.bincount(groups)[groups], dtype=np.int64)


def fold_numbers(labels: Integers, groups: Integers, folds: int, seed: int) -> Integers:
    """Which fold each sample is in, shape (samples,): shuffled, each class spread evenly, no group divided.

    ``groups`` count from 0. The largest groups are placed first, each where its class, then all samples are fewest.

    >>> fold_numbers(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), folds=2, seed=0).tolist()[:2] in ([0, 0], [1, 1])
    True
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups)
    label_of = np.zeros(len(sizes), dtype=np.int64)
    label_of[groups] = labels
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    in_class = np.zeros((int(labels.max()) + 1, folds))
    in_all = np.zeros(folds)
    fold_of = np.zeros(len(sizes), dtype=np.int64)
    for group in order:
        load = in_class[label_of[group]]
        best = int(np.lexsort((in_all, load))[0])
        fold_of[group] = best
        load[best] += sizes[group]
        in_all[best] += sizes[group]
    return np.asarray(fold_of[groups], dtype=np.int64)


def _members(groups: Integers, chosen: npt.NDArray[np.bool_]) -> Iterator[Integers]:
    """Rows of the chosen groups, those of equal size together: arrays of shape (groups, size)."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(groups[rows], kind="stable")]
    _, starts, sizes = np.unique(groups[rows], return_index=True, return_counts=True)
    for size in np.unique(sizes):
        first = starts[sizes == size]
        yield rows[first[:, None] + np.arange(size)]


def probed(groups: Integers, seed: int) -> npt.NDArray[np.bool_]:
    """Which samples settings are chosen by, shape (samples,): those of ``_PROBED`` groups, drawn without labels."""
    chosen = np.zeros(int(groups.max()) + 1, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(chosen))[:_PROBED]] = True
    return np.asarray(chosen[groups])


# --- logistic regression


class LeaveOutLogistic:
    """Logistic regression without each group: by one step where ``steps`` (samples,) says so, by folds elsewhere."""

    def __init__(
        self,
        inputs: Features,
        n_classes: int,
        groups: Integers,
        in_folds: Integers,
        steps: npt.NDArray[np.bool_],
        weights: Floats | None = None,
    ) -> None:
        self._inputs = inputs
        self._n_classes = n_classes
        self._groups = groups
        self._in_folds = in_folds
        self._steps = steps
        self._weights = np.ones(len(inputs)) if weights is None else weights
        self._strength = STRENGTHS[2]

    def choose(self, labels: Integers, seed: int) -> float:
        """Choose the strength of least log loss on samples left out, and return it."""
        probe = probed(self._groups, seed) | ~self._steps

        def loss(strength: float) -> float:
            return log_loss(self._left_out(labels, strength, probe)[probe], labels[probe], self._weights[probe])

        self._strength = least(STRENGTHS, loss)
        return self._strength

    def fitted(self, labels: Integers) -> tuple[Floats, Floats]:
        """Weights (classes, d) and intercepts (classes,) of one fit on all samples."""
        return _fit(self._inputs, labels, self._n_classes, self._strength, self._weights)

    def probabilities(self, learned: Integers, given: Integers) -> Floats:
        """Probabilities (samples, classes) of samples left out; ``given`` is not looked at."""
        return self._left_out(learned, self._strength, np.ones(len(learned), dtype=bool))

    def _left_out(self, labels: Integers, strength: float, wanted: npt.NDArray[np.bool_]) -> Floats:
        probabilities = np.zeros((len(labels), self._n_classes))
        steps, given = self._steps & wanted, (self._inputs, labels, self._n_classes)
        if steps.any():
            by_step = leave_out_logistic(
                *given, self._groups, strength=strength, chosen=steps, sample_weights=self._weights
            )
            probabilities[steps] = by_step[steps]
        rest = wanted & ~self._steps
        if rest.any():
            probabilities[rest] = _folds_logistic(*given, self._in_folds, strength, rest, self._weights)[rest]
        return probabilities


def least(among: Sequence[float], loss: Callable[[float], float]) -> float:
    """Which of these gives the least loss, going down from the middle: the loss has one valley."""
    found = {len(among) // 2: loss(among[len(among) // 2])}
    while True:
        best = min(found, key=found.__getitem__)
        untried = [n for n in (best - 1, best + 1) if 0 <= n < len(among) and n not in found]
        if not untried:
            return among[best]
        found[untried[0]] = loss(among[untried[0]])


def _folds_logistic(
    inputs: Features,
    labels: Integers,
    n_classes: int,
    in_folds: Integers,
    strength: float,
    wanted: npt.NDArray[np.bool_],
    sample_weights: Floats,
) -> Floats:
    probabilities = np.zeros((len(labels), n_classes))
    for number in np.unique(in_folds[wanted]):
        held = in_folds == number
        fit = _fit(inputs[~held], labels[~held], n_classes, strength, sample_weights[~held])
        probabilities[held] = softmax(_logits(inputs[held], *fit))
    return probabilities


def _logits(inputs: Features, weights: Floats, intercepts: Floats) -> Floats:
    return np.asarray(inputs @ weights.T + intercepts, dtype=np.float64)


def _fit(
    inputs: Features, labels: Integers, n_classes: int, strength: float, sample_weights: Floats
) -> tuple[Floats, Floats]:
    """Weights (classes, d) and intercepts (classes,) of a multinomial fit; an absent class is next to impossible."""
    from sklearn.linear_model import LogisticRegression  # only where labels are scored
    from threadpoolctl import threadpool_limits

    weights = np.zeros((n_classes, inputs.shape[1]))
    intercepts = np.full(n_classes, -np.log(2.0 + len(labels)) - 10)
    present = np.unique(labels)
    if len(present) < 2:
        # Nothing to tell apart: how often each class came, smoothed, is all that is known.
        return weights, np.log(np.bincount(labels, sample_weights, minlength=n_classes) + 1.0)
    threads = 1 if inputs.size * len(present) < _WORTH_THREADS else None
    with threadpool_limits(limits=threads, user_api="blas"):
        fitted = LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(inputs, labels, sample_weights)
    if len(present) == 2:  # scikit-learn keeps one row for two classes
        weights[present] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
        intercepts[present] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
    else:
        weights[present], intercepts[present] = fitted.coef_, fitted.intercept_
    return weights, intercepts


def leave_out_logistic(
    inputs: Features,
    labels: Integers,
    n_classes: int,
    groups: Integers,
    *,
    strength: float,
    chosen: npt.NDArray[np.bool_] | None = None,
    sample_weights: Floats | None = None,
) -> Floats:
    """Probabilities, shape (samples, classes), of one logistic fit with each group taken out of it again.

    One Newton step from the fit, one class against the rest (Rad and Maleki, JRSS-B 2020). For a group T with inputs
    X, residuals r = p - y and weights W = p (1 - p): z + H (I - W H)^-1 r, with H = X (X'W X + I/strength)^-1 X' taken
    over all samples and then over T. Rows that are not ``chosen`` come back as fitted. Both r and W are times
    ``sample_weights`` (samples,) where these are given.
    """
    counted = np.ones(len(labels)) if sample_weights is None else sample_weights
    weights, intercepts = _fit(inputs, labels, n_classes, strength, counted)
    logits = _logits(inputs, weights, intercepts)
    fitted = softmax(logits)
    design = np.concatenate([inputs, np.ones((len(inputs), 1), dtype=np.float32)], axis=1)
    penalty = np.full(design.shape[1], 1 / strength)
    penalty[-1] = 1e-3  # the intercept is next to free
    everyone = np.ones(len(labels), dtype=bool)
    members = [(rows, design[rows]) for rows in _members(groups, everyone if chosen is None else chosen)]
    present = np.unique(labels).tolist()  # a class without samples stays as fitted
    two = len(present) == 2  # both columns then move by the same step, in opposite directions
    for column in present[:1] if two else present:
        p = fitted[:, column]
        curvature = counted * np.maximum(p * (1 - p), 1e-6)
        hessian = (design * curvature[:, None].astype(np.float32)).T @ design + np.diag(penalty)
        inverse = np.linalg.inv(hessian).astype(np.float32)
        residual = counted * (p - (labels == column))
        for rows, inputs_left_out in members:
            step = (inputs_left_out.reshape(-1, len(inverse)) @ inverse).reshape(inputs_left_out.shape)
            moved = _step(inputs_left_out, step, curvature[rows], residual[rows])
            logits[rows, column] += moved / (2 if two else 1)
            if two:
                logits[rows, present[1]] -= moved / 2
    return softmax(logits)


def _step(design: Features, step: Features, curvature: Floats, residual: Floats) -> Floats:
    """How far logits move when groups are left out; shapes (groups, size, d) twice and (groups, size) twice."""
    if design.shape[1] == 1:
        leverage = np.einsum("gsd,gsd->gs", design, step).astype(np.float64)
        return np.asarray(leverage * residual / np.maximum(1 - curvature * leverage, 0.05))
    hat = (design @ step.transpose(0, 2, 1)).astype(np.float64)
    kept = (1 + 1e-3) * np.eye(hat.shape[1]) - curvature[:, :, None] * hat
    return np.asarray((hat @ np.linalg.solve(kept, residual[:, :, None]))[:, :, 0])


# --- kernel regression


class LeaveOutKernel:
    """Ridge regression with a Gaussian kernel, each group left out exactly.

    With H = K (K + noise)^-1 the prediction for a group T without T is (I - H_TT)^-1 (F_T - H_TT Y_T) (Rasmussen and
    Williams 2006, section 5.4.2, for one sample). The kernel's width is the median distance. A softmax whose
    temperature is chosen by the left-out log loss makes the values probabilities. Beyond 2,000 samples the kernel
    rests on 2,000 of them, drawn without labels (Nystroem; Williams and Seeger, NIPS 2000). A sample of ``weights``
    (samples,) w has the noise over w: weighted least squares, which is the same on rows and targets times the root.
    """

    def __init__(
        self, inputs: Features, n_classes: int, groups: Integers, seed: int, products: Features | None = None,
        weights: Floats | None = None,
    ) -> None:  # fmt: skip
        self._n_classes = n_classes
        self._groups = groups
        self._noise = NOISES[len(NOISES) // 2]
        self._kernel = _Kernel(inputs, seed, products)
        self._weights = np.ones(len(inputs)) if weights is None else weights
        self._roots = np.sqrt(self._weights)[:, None].astype(np.float32)
        self._rooted = self._kernel.rooted if weights is None else self._kernel.rooted * self._roots
        self._gram = (self._rooted.T @ self._rooted).astype(np.float64)
        self._hat: tuple[float, Features] | None = None
        self._lower: dict[float, Features] = {}
        self._probe = np.flatnonzero(probed(groups, seed))

    def choose(self, labels: Integers) -> float:
        """Choose the noise of least squared error on samples left out, and return it."""
        targets = self._targets(labels)
        probe = self._probe

        def loss(noise: float) -> float:
            half, right = self._solved(noise, targets, self._rooted[probe])
            values = leave_out_ridge(half, half @ right, targets[probe], self._groups[probe])
            return float(((values - targets[probe]) ** 2).sum())  # each times its weight, as both have the root

        self._noise = least(NOISES, loss)
        return self._noise

    def probabilities(self, learned: Integers, given: Integers) -> Floats:
        """Probabilities (samples, classes) of samples left out; the temperature is that of the given labels."""
        values = self.values(learned)
        return apply_temperature(values, temperature(values, given, self._weights))

    def values(self, labels: Integers) -> Floats:
        """What is predicted for the indicators of classes, less 1 / classes, for samples left out."""
        targets = self._targets(labels)
        if self._hat is None or self._hat[0] != self._noise:
            self._hat = (self._noise, self._solved(self._noise, targets, self._rooted)[0])
        half = self._hat[1]
        return leave_out_ridge(half, half @ (half.T @ targets), targets, self._groups) / self._roots

    def fitted(self, labels: Integers) -> KernelFit:
        """One fit on all samples, for others than these."""
        from scipy.linalg import solve_triangular

        kernel, targets = self._kernel, self._targets(labels)
        ridge = self._gram + self._noise * np.eye(len(self._gram))
        weights = np.linalg.solve(ridge, (self._rooted.T @ targets).astype(np.float64))
        coefficients = solve_triangular(kernel.lower, weights, lower=True, trans="T", check_finite=False)
        left_out = temperature(self.values(labels), labels, self._weights)
        return KernelFit(kernel.landmarks, kernel.width, np.asarray(coefficients), left_out)

    def _targets(self, labels: Integers) -> Features:
        targets = np.eye(self._n_classes, dtype=np.float32)[labels] - 1 / self._n_classes
        return np.asarray(targets * self._roots, dtype=np.float32)

    def _solved(self, noise: float, targets: Features, rows: Features) -> tuple[Features, Features]:
        """B (rows, m) with H = B B', and what B times gives the fitted values of these rows, (m, classes)."""
        from scipy.linalg import solve_triangular

        if noise not in self._lower:
            ridge = self._gram + noise * np.eye(len(self._gram))
            self._lower[noise] = np.linalg.cholesky(ridge).astype(np.float32)
        lower = self._lower[noise]
        half = solve_triangular(lower, rows.T, lower=True, check_finite=False).T
        right = solve_triangular(lower, self._rooted.T @ targets, lower=True, check_finite=False)
        return np.ascontiguousarray(half), right


@dataclass(frozen=True, eq=False)
class KernelFit:
    """Kernel regression for new samples: values (n, classes) are exp(-squared distances / width) @ coefficients.

    Distances are to the samples whose rows are ``landmarks`` (m,), ``coefficients`` has shape (m, classes); a softmax
    of the values over ``temperature`` makes them probabilities.
    """

    landmarks: Integers
    width: float
    coefficients: Floats
    temperature: float


class _Kernel:
    """A Gaussian kernel as R R', R of shape (samples, landmarks) float32; exactly, where all are landmarks.

    ``products`` of all pairs of inputs may be given where all are landmarks.
    """

    def __init__(self, inputs: Features, seed: int, products: Features | None = None) -> None:
        from scipy.linalg import solve_triangular

        rng = np.random.default_rng(seed)
        self.landmarks = np.sort(rng.permutation(len(inputs))[:LANDMARKS])
        distances = squared_distances(inputs, inputs[self.landmarks], products)
        self.width = kernel_width(distances, inputs)
        kernel = np.exp(-distances / self.width)
        self.lower = cholesky(kernel[self.landmarks].astype(np.float64))
        rooted = solve_triangular(self.lower, kernel.T, lower=True, check_finite=False, overwrite_b=True).T
        self.rooted = np.ascontiguousarray(rooted, dtype=np.float32)


def kernel_width(distances: Features, inputs: Features) -> float:
    """The width of a Gaussian kernel: the median of squared distances, where that is more than rounding of inputs
    (n, dimensions).
    """
    squares = float(np.einsum("sd,sd->", inputs, inputs)) / len(inputs)
    return max(float(np.median(distances)), _NARROWEST * squares, 1e-6)


def cholesky(kernel: Floats, raised: float = 1e-4) -> Floats:
    """Of a kernel (n, n), its diagonal raised by as much as is said, and by more where rounding asks for it.

    Distances in single precision of images that are shown many times make it indefinite by more than a little.
    """
    for by in (raised, 10 * raised, 100 * raised):
        try:
            return np.asarray(np.linalg.cholesky(kernel + by * np.eye(len(kernel))), dtype=np.float64)
        except np.linalg.LinAlgError:
            continue
    return np.asarray(np.linalg.cholesky(kernel + 1000 * raised * np.eye(len(kernel))), dtype=np.float64)


def squared_distances(left: Features, right: Features, products: Features | None = None) -> Features:
    """Squared distances of rows of two arrays, (rows of left, rows of right), float32; ``products`` are theirs."""
    products = left @ right.T if products is None else products
    own = (np.einsum("sd,sd->s", rows, rows) for rows in (left, right))
    squares = next(own)[:, None] + next(own)[None, :] - 2 * products
    return np.asarray(np.maximum(squares, 0), dtype=np.float32)


def leave_out_ridge(half: Features, fitted: Features, targets: Features, groups: Integers) -> Floats:
    """Left-out predictions (rows, classes) from B with H = B B', fitted values, targets and groups of whole rows.

    ``half`` is B, (rows, m). A group of more than m rows is left out in m dimensions, so that memory does not grow as
    the square of the group: (I - B B')^-1 v = v + B (I - B'B)^-1 B'v.
    """
    values = np.zeros(targets.shape)
    leverages = np.einsum("sm,sm->s", half, half).astype(np.float64)
    raised = 1 + 1e-4  # the diagonal of I, as rounding asks for
    for rows in _members(groups, np.ones(len(groups), dtype=bool)):
        own = targets[rows].astype(np.float64)
        if rows.shape[1] == 1:
            leverage = leverages[rows][:, :, None]
            values[rows] = (fitted[rows] - leverage * own) / np.maximum(1 - leverage, 1e-3)
        elif rows.shape[1] <= half.shape[1]:
            vectors = half[rows]
            hat = (vectors @ vectors.transpose(0, 2, 1)).astype(np.float64)
            values[rows] = np.linalg.solve(raised * np.eye(rows.shape[1]) - hat, fitted[rows] - hat @ own)
        else:
            for large in rows:
                vectors, targeted = half[large], targets[large]
                left = fitted[large] - vectors @ (vectors.T @ targeted)
                gram = (vectors.T @ vectors).astype(np.float64)
                moved = np.linalg.solve(raised * np.eye(len(gram)) - gram, (vectors.T @ left).astype(np.float64))
                values[large] = (left + vectors @ moved) / raised
    return values


# --- values as probabilities


def softmax(logits: Floats) -> Floats:
    """Rows of logits, shape (samples, classes), as distributions."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def log_loss(probabilities: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """Mean, weighted (samples,) where weights are given, of minus the logarithm of the label's probability, in nats.

    >>> round(log_loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])), 4)
    0.4904
    """
    losses = -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12))
    return float(np.average(losses, weights=weights))


def temperature(logits: Floats, labels: Integers, weights: Floats | None = None) -> float:
    """The temperature by which logits, shape (samples, classes), explain the labels best; below 1 sharpens.

    Logits may be logarithms of probabilities; samples count by ``weights`` (samples,), where given. Fitted by log
    loss between 0.01 and 100 (Guo et al., ICML 2017).
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda logarithm: log_loss(apply_temperature(logits, float(np.exp(logarithm))), labels, weights),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(found.x))


def apply_temperature(logits: Floats, by: float) -> Floats:
    """Probabilities of shape (samples, classes) from logits divided by a temperature."""
    return softmax(np.asarray(logits, dtype=np.float64) / by)
