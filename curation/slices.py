"""Weak slices: groups of samples with something in common on which the model is wrong more often than by chance.

The search tries every conjunction of up to ``max_conditions`` conditions on class, metadata and measured properties,
as sums of products of one 0/1 matrix (Sagadeeva and Boehm, "SliceLine", SIGMOD 2021). Errors are counted against those
of the same class (Mantel and Haenszel 1959), so that a hard class alone makes no other condition look weak; classes
that are hard throughout are reported last. How far the best conjunction would stand out if errors fell on the samples
of a class at random is found by permuting them (Westfall and Young 1993), so a slice is reported only where it is more
than the best of thousands of tries on noise. Where no words fit, groups of images that look alike are searched in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.properties import PROPERTIES, QUALITY_ONLY
from curation.records import Classes, Condition, Slice

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

#: Numeric columns are cut at these quantiles: below the first, at or above the second.
LOW_CUTS, HIGH_CUTS = (0.01, 0.02, 0.04, 0.07, 0.12, 0.25), (0.75, 0.88, 0.93, 0.96, 0.98, 0.99)
#: Columns that say which images look alike (``curation.neighbours.group_by_looks``); searched after those with words.
LOOKS = ("looks", "looks_closely")
#: A whole-number column of metadata with no more values than this is read as categories.
FEW_VALUES = 10
#: Values of a category beyond the most frequent ones are not tried, nor are more slices reported than people can use.
MOST_VALUES, MOST_SLICES = 50, 10
#: How many typical members of a slice are named.
MOST_TYPICAL = 20
#: A slice whose error rate is less than this times that of comparable images is no weakness, however sure it is.
LEAST_RISE = 1.2
#: How the chance of a false slice is divided: conditions with words, looks, classes alone; the rest is for later ones.
_SHARES = (0.4, 0.2, 0.2)
#: Permutations: as many as this many multiplications allow, within the two bounds.
_FEWEST, _MOST, _WORK = 200, 300, 1.5e11
#: Pairs of conditions that are refined by a third.
_BEAM = 25
#: Of so many candidates that stand out most, one that names a weakness is preferred to another of nearly the same rows
#: (intersection over union) and merit: first weaknesses that show at once, then any that has a recipe.
_NEAR, _SAME_ROWS, _AS_GOOD = 200, 0.7, 0.8
_PLAINEST = ("dark", "blurred", "glare", "tilted", "colour_cast", "compressed")
#: Scores that differ by less are equal: sums in another order differ by rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class _Atoms:
    """Single conditions, the field number of each, and which rows fulfil them: 0/1 of shape (rows, conditions)."""

    conditions: tuple[Condition, ...]
    fields: npt.NDArray[np.int64]
    masks: Counts


@dataclass(frozen=True)
class _Candidates:
    """Conjunctions: their conditions by number, shape (candidates, depth), and their sizes, shape (candidates,)."""

    parts: npt.NDArray[np.int64]
    sizes: Scores


# --- finding


def find_slices(
    table: pd.DataFrame,
    errors: Mask,
    sample_ids: Sequence[str],
    *,
    settings: SliceSettings,
    classes: Classes,
    labels: Sequence[str],
    seed: int = 0,
) -> list[Slice]:
    """Find where the model is weak: the slices whose repair would remove most errors first, none on pure chance.

    Slices with words come first, then groups that look alike, then classes that are hard throughout, each kind in the
    order of ``removable``: what has a name can be repaired or collected, and of a class no comparable images tell what
    could be repaired.

    ``table`` holds metadata and properties, one row a sample in the order of ``errors`` (shape (samples,), bool:
    the out-of-sample prediction differs from the label), ``sample_ids`` and ``labels`` (class ids). Columns named in
    ``LOOKS`` hold groups that look alike; they are searched for what conditions with words do not explain. The chance
    that any slice at all is reported where errors fall at random within each class is at most ``settings.alpha``;
    ``p_value`` is corrected for everything that was tried. Of slices that overlap, a further one is reported only where
    it stands out beyond what those before it explain. Raises RecordError where lengths differ.
    """
    wrong = np.asarray(errors, dtype=np.bool_)
    _check_lengths(len(table), wrong, sample_ids, labels)
    if not wrong.any() or wrong.all():
        return []
    atoms = _find_atoms(table, labels, classes, settings.min_size)
    rng = np.random.default_rng(seed)
    of_class = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1].astype(np.int64)
    chosen: list[Mask] = []
    found: list[Slice] = []
    for stage, share in zip(("words", "looks", "class"), _SHARES, strict=True):
        own = _atoms_of(stage, atoms)
        strata = _strata_codes(np.zeros_like(of_class) if stage == "class" else of_class, chosen)
        if not own.conditions or len(chosen) >= MOST_SLICES:
            continue
        search = _Search(own, settings.min_size, 1 if stage == "class" else settings.max_conditions, wrong, strata)
        picked = []
        for conditions, mask, p_value in _pick(search, wrong, share * settings.alpha, MOST_SLICES - len(chosen), rng):
            chosen.append(mask)
            comparable = comparable_rate(wrong, mask, of_class) if stage != "class" else float(wrong[~mask].mean())
            made = _slice_of(conditions, mask, wrong, sample_ids, classes, p_value, comparable)
            rows = typical_rows(made, table, labels)[:MOST_TYPICAL]
            picked.append(replace(made, typical=tuple(sample_ids[row] for row in rows)))
        found += sorted(picked, key=lambda s: (-s.removable, s.name))
    return found


def _atoms_of(stage: str, atoms: _Atoms) -> _Atoms:
    """The conditions that a stage of the search may use: looks only where no words fit, classes alone at the end."""
    kinds = np.array(["looks" if c.field in LOOKS else "class" if c.field == "class" else "words"
                      for c in atoms.conditions])  # fmt: skip
    keep = ((kinds == stage) | (kinds == "class")) & (kinds == stage).any()
    rows = np.flatnonzero(keep)
    return _Atoms(tuple(atoms.conditions[row] for row in rows), atoms.fields[rows], atoms.masks[:, rows])


def comparable_rate(wrong: Mask, mask: Mask, of_class: Codes) -> float:
    """The error rate outside ``mask`` of images with its mix of classes; of all others for a class with none outside.

    >>> wrong, inside = np.array([True, False, True, False, False]), np.array([True, False, False, True, False])
    >>> comparable_rate(wrong, inside, np.array([0, 0, 0, 1, 1]))
    0.25
    """
    outside = float(wrong[~mask].mean())
    total = 0.0
    for code in np.unique(of_class[mask]):
        others = (of_class == code) & ~mask
        total += int((of_class[mask] == code).sum()) * (float(wrong[others].mean()) if others.any() else outside)
    return total / int(mask.sum())


def _check_lengths(rows: int, errors: Mask, sample_ids: Sequence[str], labels: Sequence[str]) -> None:
    if not (errors.shape == (rows,) and len(sample_ids) == rows and len(labels) == rows):
        raise RecordError(
            f"slices need one error, sample id and label a row of the table ({rows} rows), "
            f"got {errors.shape}, {len(sample_ids)} and {len(labels)}"
        )


class _Search:
    """All conjunctions of an ``_Atoms`` up to a depth, to be scored for any pattern of errors within the strata."""

    def __init__(self, atoms: _Atoms, min_size: int, depth: int, wrong: Mask, strata: Codes) -> None:
        self.atoms = atoms
        self.min_size = min_size
        self.depth = depth
        self.strata = strata
        self.rows = len(atoms.masks)
        self.joint = _joint(atoms.masks, atoms.masks)
        self.flat = self._singles_and_pairs()
        # The same for every pattern that has as many errors in each stratum, so for every permutation within them.
        self.expected = self._expected(wrong, strata)

    def _singles_and_pairs(self) -> _Candidates:
        """Single conditions (repeated as a pair with themselves), and pairs of different fields that add something."""
        sizes = self.joint.astype(np.float64)
        own = np.diag(sizes)
        fields = self.atoms.fields
        keep = (sizes >= self.min_size) & (sizes <= self.rows - self.min_size)
        pairs = np.triu(keep & (fields[:, None] != fields[None, :]), 1)
        pairs &= (sizes < own[:, None]) & (sizes < own[None, :]) & (self.depth > 1)
        first, second = np.nonzero(pairs | (np.eye(len(own), dtype=np.bool_) & keep))
        return _Candidates(np.stack([first, second], axis=1), sizes[first, second])

    def _expected(self, wrong: Mask, strata: Codes) -> _Sums:
        """What errors that fall at random within strata come to in every single condition and pair."""
        first, second = self.flat.parts.T
        sums = _Sums(len(first))
        for code in np.unique(strata):
            stratum = strata == code
            inside = _joint(self.atoms.masks[stratum], self.atoms.masks[stratum])
            sums.add(inside[first, second], int(wrong[stratum].sum()), int(stratum.sum()))
        return sums

    def score(self, wrong: Mask, chosen: Sequence[Mask] = ()) -> tuple[_Candidates, Scores]:
        """Candidates and how far each stands out, shape (candidates,), in standard deviations; < 0: fewer errors.

        Within the strata that the chosen slices cut the rows into, so that what these explain counts for nothing.
        """
        strata = _strata_codes(self.strata, chosen)
        expected = self._expected(wrong, strata) if len(chosen) else self.expected
        first, second = self.flat.parts.T
        scores = expected.scores(_seen(self.atoms.masks, self.atoms.masks, self.joint, wrong)[first, second])
        return self._with_triples(scores, wrong, strata) if self.depth > 2 else (self.flat, scores)

    def _with_triples(self, scores: Scores, wrong: Mask, strata: Codes) -> tuple[_Candidates, Scores]:
        """The best pairs, each with every condition of a third field that makes it smaller but not too small."""
        pairs = np.flatnonzero(self.flat.parts[:, 0] != self.flat.parts[:, 1])
        best = pairs[np.argsort(-scores[pairs], kind="stable")[:_BEAM]]
        first, second = self.flat.parts[best].T
        masks, fields = self.atoms.masks, self.atoms.fields
        both: Counts = masks[:, first] * masks[:, second]
        sizes = _joint(both, masks)
        keep = (sizes >= self.min_size) & (sizes < self.flat.sizes[best][:, None])
        keep &= (fields[first][:, None] != fields[None, :]) & (fields[second][:, None] != fields[None, :])
        row, third = np.nonzero(keep)
        sums = _Sums(len(row))
        for code in np.unique(strata):
            stratum = strata == code
            inside = _joint(both[stratum], masks[stratum])
            sums.add(inside[row, third], int(wrong[stratum].sum()), int(stratum.sum()))
        flat = np.concatenate([self.flat.parts, self.flat.parts[:, 1:]], axis=1)
        parts = np.concatenate([flat, np.stack([first[row], second[row], third], axis=1)])
        together = _Candidates(parts, np.concatenate([self.flat.sizes, sizes[row, third].astype(np.float64)]))
        return together, np.concatenate([scores, sums.scores(_seen(both, masks, sizes, wrong)[row, third])])

    def conditions(self, parts: npt.NDArray[np.int64]) -> tuple[Condition, ...]:
        """The conditions of a candidate, in the order of fields."""
        return tuple(self.atoms.conditions[number] for number in sorted(set(parts.tolist())))

    def mask(self, parts: npt.NDArray[np.int64]) -> Mask:
        """Which rows a candidate holds."""
        members: Mask = np.logical_and.reduce([self.atoms.masks[:, number] > 0 for number in set(parts.tolist())])
        return members


class _Sums:
    """Errors expected of candidates, and their variance, summed over strata (Mantel and Haenszel 1959)."""

    def __init__(self, candidates: int) -> None:
        self.expected = np.zeros(candidates)
        self.variance = np.zeros(candidates)

    def add(self, sizes: Counts, errors: int, rows: int) -> None:
        """A stratum: of its ``rows``, ``errors`` are wrong; candidates have ``sizes`` rows there."""
        rate = errors / rows
        self.expected += sizes * rate
        if rows > 1:
            self.variance += sizes * (rate * (1 - rate) / (rows - 1)) * (rows - sizes)

    def scores(self, seen: Counts) -> Scores:
        return standing_out(seen - self.expected, self.variance)


def standing_out(surplus: Scores, variance: Scores) -> Scores:
    """How far counts lie above what is expected, in standard deviations of a normal: a signed root of a deviance.

    The deviance is that of a Poisson count of this variance, which has the long tail upwards of small counts; a plain
    (seen - expected) / deviation would let tiny slices look too strong.

    >>> standing_out(np.array([0.0, 30.0]), np.array([4.0, 10_000.0])).round(2).tolist()
    [0.0, 0.3]
    >>> bool(standing_out(np.array([5.0]), np.array([1.0]))[0] < 5 / 1)
    True
    """
    safe = np.maximum(variance, 1e-12)
    ratio = np.maximum(surplus / safe, -1 + 1e-12)
    deviance = 2 * safe * ((1 + ratio) * np.log1p(ratio) - ratio)
    scores: Scores = np.where(variance > 1e-9, np.sign(surplus) * np.sqrt(np.maximum(deviance, 0)), 0.0)
    return scores


def _seen(left: Counts, right: Counts, inside: Counts, wrong: Mask) -> Counts:
    """Errors in each pair of a left and a right column; from what is right, where that is fewer (``inside``: all)."""
    few = 2 * int(wrong.sum()) <= len(wrong)
    rows = wrong if few else ~wrong
    counted = _joint(left[rows], right[rows])
    return counted if few else inside - counted


def _joint(left: Counts, right: Counts) -> Counts:
    """How many rows hold each pair of a left and a right column."""
    counts: Counts = left.T @ right
    return counts


def _strata_codes(strata: Codes, chosen: Sequence[Mask]) -> Codes:
    """Number the parts that these masks cut the strata into, shape (rows,)."""
    codes = strata
    for mask in chosen:
        codes = np.unique(2 * codes + mask, return_inverse=True)[1].astype(np.int64)
    return codes


def _best_by_chance(search: _Search, wrong: Mask, level: float, rng: np.random.Generator) -> Scores:
    """The best score of each depth in many permutations of the errors within strata, shape (permutations, depths).

    Stops as soon as so many of them reach the scores of the errors themselves that no slice can be told from chance.
    """
    work = float(min(wrong.sum(), (~wrong).sum()) + 1) * len(search.atoms.conditions) ** 2
    count = int(np.clip(_WORK / work, max(_FEWEST, np.ceil(2 * search.depth / level)), _MOST))
    seen = _best_by_depth(*search.score(wrong), search.depth)
    best = np.full((count, search.depth), np.inf)
    reached = np.zeros(search.depth)
    for turn in range(count):
        if ((1 + reached) * search.depth > level * (1 + count)).all():
            break
        best[turn] = _best_by_depth(*search.score(_permuted(wrong, search.strata, rng)), search.depth)
        reached += best[turn] >= seen - _TIE
    return best


def _permuted(wrong: Mask, strata: Codes, rng: np.random.Generator) -> Mask:
    """The errors in a random order within each stratum."""
    shuffled = np.empty_like(wrong)
    places = np.argsort(strata, kind="stable")
    shuffled[places] = wrong[np.lexsort((rng.random(len(wrong)), strata))]
    return shuffled


def _depths(candidates: _Candidates) -> npt.NDArray[np.int64]:
    """How many conditions each candidate has, shape (candidates,)."""
    ordered = np.sort(candidates.parts, axis=1)
    return np.asarray(1 + (np.diff(ordered, axis=1) > 0).sum(axis=1), dtype=np.int64)


def _best_by_depth(candidates: _Candidates, scores: Scores, depth: int) -> Scores:
    depths = _depths(candidates)
    return np.array([scores[depths == number].max(initial=0.0) for number in range(1, depth + 1)])


def _p_values(candidates: _Candidates, scores: Scores, chance: Scores) -> Scores:
    """Chance that some candidate of the same depth scores as high, times how many depths there are; at most 1.

    Single conditions are far fewer than pairs, so they need not stand out against what pairs reach by chance.
    """
    depths = _depths(candidates)
    found: Scores = np.ones(len(scores), dtype=np.float64)
    for number in range(1, chance.shape[1] + 1):
        ordered = np.sort(chance[:, number - 1])
        reached = len(ordered) - np.searchsorted(ordered, scores - _TIE, side="left")
        p_values = chance.shape[1] * (1 + reached) / (1 + len(ordered))
        found[depths == number] = np.minimum(p_values, 1.0)[depths == number]
    return found


def _pick(
    search: _Search, wrong: Mask, level: float, most: int, rng: np.random.Generator
) -> Iterator[tuple[tuple[Condition, ...], Mask, float]]:
    """The slice that stands out most, then the one that does so beyond it, and so on, each with its p-value.

    A further condition must raise the squared score by twice the logarithm of how many could have been added. The
    later slices are held against what chance reaches in the first.
    """
    chance = _best_by_chance(search, wrong, level, rng)
    price = 2 * np.log(max(len(search.atoms.conditions), 2))
    chosen: list[Mask] = []
    picked = 0
    while picked < most:
        candidates, scores = search.score(wrong, chosen)
        p_values = _p_values(candidates, scores, chance)
        merit = np.where((p_values <= level) & (scores > 0), scores**2 - price * (_depths(candidates) - 1), -np.inf)
        best = _first_weak(search, candidates, merit, wrong)
        if best is None:
            return
        chosen.append(search.mask(candidates.parts[best]))
        best = _easier_to_repair(search, candidates, merit, wrong, best)
        mask = search.mask(candidates.parts[best])
        if (mask != chosen[-1]).any():
            chosen.append(mask)  # neither what the other explains is reported again
        picked += 1
        yield search.conditions(candidates.parts[best]), mask, float(p_values[best])


def _easier_to_repair(search: _Search, candidates: _Candidates, merit: Scores, wrong: Mask, best: int) -> int:
    """Of candidates that hold nearly the same rows and stand out nearly as much, one that names a known weakness.

    Dark images are also plain and of little contrast; ``brightness < 0.1`` says what to do about them.
    """
    if weakness_of(search.conditions(candidates.parts[best])) in _PLAINEST:
        return best
    mask = search.mask(candidates.parts[best])
    near = np.argsort(-merit, kind="stable")[:_NEAR]
    for known in (_PLAINEST, tuple(_WEAKNESSES.values())):
        for number in near[merit[near] >= _AS_GOOD * merit[best]]:
            if weakness_of(search.conditions(candidates.parts[number])) not in known:
                continue
            other = search.mask(candidates.parts[number])
            if (mask & other).sum() >= _SAME_ROWS * (mask | other).sum() and _is_weak(search, other, wrong):
                return int(number)
    return best


def _is_weak(search: _Search, mask: Mask, wrong: Mask) -> bool:
    return bool(wrong[mask].mean() >= LEAST_RISE * comparable_rate(wrong, mask, search.strata))


def _first_weak(search: _Search, candidates: _Candidates, merit: Scores, wrong: Mask) -> int | None:
    """The candidate of most merit whose error rate is also clearly above that of comparable images."""
    for number in np.argsort(-merit, kind="stable"):
        if merit[number] == -np.inf:
            return None
        mask = search.mask(candidates.parts[number])
        if _is_weak(search, mask, wrong):
            return int(number)
    return None


def _slice_of(
    conditions: tuple[Condition, ...],
    mask: Mask,
    wrong: Mask,
    sample_ids: Sequence[str],
    classes: Classes,
    p_value: float,
    comparable: float,
) -> Slice:
    size, errors = int(mask.sum()), int(wrong[mask].sum())
    return Slice(
        name=" and ".join(_condition_name(c, classes) for c in conditions),
        conditions=conditions,
        sample_ids=tuple(sample_ids[row] for row in np.flatnonzero(mask)),
        size=size,
        errors=errors,
        error_rate=errors / size,
        ci=wilson_interval(errors, size),
        rest_error_rate=float(wrong[~mask].mean()),
        p_value=p_value,
        weakness=weakness_of(conditions),
        removable=max(errors - size * comparable, 0.0),
    )


# --- conditions


def _find_atoms(table: pd.DataFrame, labels: Sequence[str], classes: Classes, min_size: int) -> _Atoms:
    """Every single condition that at least ``min_size`` rows fulfil and as many don't, each set of rows once."""
    kept: list[Condition] = []
    fields: list[int] = []
    columns: list[Mask] = []
    seen: set[bytes] = set()
    for number, condition in _conditions(table, labels, classes, min_size):
        mask = _holds(condition, table, labels)
        key = np.packbits(mask).tobytes()
        if key in seen or not min_size <= mask.sum() <= len(mask) - min_size:
            continue
        seen.add(key)
        kept.append(condition)
        fields.append(number)
        columns.append(mask)
    masks = np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(table), 0), dtype=np.float32)
    return _Atoms(tuple(kept), np.array(fields, dtype=np.int64), masks)


def _conditions(
    table: pd.DataFrame, labels: Sequence[str], classes: Classes, min_size: int
) -> Iterator[tuple[int, Condition]]:
    """Conditions to try, each with the number of its field: class first, then categories, then numbers."""
    present = set(labels)
    for class_id in classes.ids:
        if class_id in present:
            yield 0, Condition("class", "=", class_id)
    names = [str(c) for c in table.columns if c != "class" and c not in QUALITY_ONLY]
    numeric = {name for name in names if _is_numeric(table[name])}
    for number, name in enumerate([n for n in names if n not in numeric], start=1):
        for value in _frequent(_texts(table[name]), min_size):
            yield number, Condition(name, "=", value)
    for number, name in enumerate([n for n in names if n in numeric], start=1 + len(names)):
        for op, cut in _cuts(table[name].to_numpy(dtype=np.float64, na_value=np.nan)):
            yield number, Condition(name, op, cut)


def _is_numeric(column: pd.Series) -> bool:
    if column.dtype.kind not in "iuf":
        return False
    if column.name in PROPERTIES:
        return True
    values = np.asarray(column.dropna().unique(), dtype=np.float64)
    return len(values) > FEW_VALUES or bool((values != np.floor(values)).any())


def _texts(column: pd.Series) -> npt.NDArray[np.object_]:
    """Category values as text, ``None`` where missing; 3.0 reads ``3`` so that a gap in a column changes no name."""
    import pandas as pd

    def text(value: object) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    codes, values = pd.factorize(column)
    known = np.array([text(v) for v in values] + [None], dtype=np.object_)
    return known[codes]


def _frequent(texts: npt.NDArray[np.object_], min_size: int) -> list[str]:
    values, counts = np.unique(texts[texts != None].astype(str), return_counts=True)  # noqa: E711 — elementwise
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    return [str(values[place]) for place in order if counts[place] >= min_size]


def _cuts(values: Scores) -> Iterator[tuple[Literal["<", ">="], float]]:
    """Readable cut points near the quantiles; where a value is very frequent, the next one that divides the rows."""
    ordered = np.sort(values[np.isfinite(values)])
    if not len(ordered) or ordered[0] == ordered[-1]:
        return
    for share in LOW_CUTS:
        cut = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
        yield "<", readable(float(cut if cut > ordered[0] else ordered[np.searchsorted(ordered, cut, side="right")]))
    for share in HIGH_CUTS:
        cut = ordered[min(int(np.ceil(share * len(ordered))), len(ordered) - 1)]
        yield ">=", readable(float(cut if cut > ordered[0] else ordered[np.searchsorted(ordered, cut, side="right")]))


def readable(value: float) -> float:
    """A number with three significant digits.

    >>> readable(0.21437), readable(1234.5), readable(0.0)
    (0.214, 1230.0, 0.0)
    """
    return float(f"{value:.3g}")


def _holds(condition: Condition, table: pd.DataFrame, labels: Sequence[str]) -> Mask:
    if condition.field == "class":
        return np.array([label == condition.value for label in labels], dtype=np.bool_)
    if condition.field not in table.columns:
        raise RecordError(f"a slice asks for '{condition.field}', which is no column of this table")
    column = table[condition.field]
    if condition.op == "=":
        return np.array(_texts(column) == str(condition.value), dtype=np.bool_)
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    cut = float(condition.value)
    return np.asarray(values < cut if condition.op == "<" else values >= cut, dtype=np.bool_)


def members(found: Slice, table: pd.DataFrame, labels: Sequence[str]) -> Mask:
    """Which rows of a table belong to a slice, shape (rows,); ``labels`` are class ids. A missing value belongs not.

    Raises RecordError where the table lacks a column that the slice speaks of.
    """
    mask = np.ones(len(table), dtype=np.bool_)
    for condition in found.conditions:
        mask &= _holds(condition, table, labels)
    return mask


def typical_rows(found: Slice, table: pd.DataFrame, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Rows of a table that belong to a slice, the most typical first: those farthest beyond its cut points.

    How far is told by ranks within the table, the least far of a slice's conditions counts; equals keep their order.
    """
    inside = np.flatnonzero(members(found, table, labels))
    depth: Scores = np.ones(len(inside), dtype=np.float64)
    for condition in found.conditions:
        if condition.op == "=":
            continue
        values = table[condition.field].to_numpy(dtype=np.float64, na_value=np.nan)
        beyond = values[inside] if condition.op == ">=" else -values[inside]
        ranks = np.searchsorted(np.sort(beyond), beyond, side="left") / max(len(beyond), 1)
        np.minimum(depth, ranks, out=depth)
    return np.asarray(inside[np.argsort(-depth, kind="stable")], dtype=np.int64)


# --- confirming


def confirm_slices(
    slices: Sequence[Slice],
    table_holdout: pd.DataFrame,
    errors_holdout: Mask,
    labels_holdout: Sequence[str],
    classes: Classes,
) -> list[Slice]:
    """The same slices with their size, error rate and 95 % interval on the holdout, which had no say in finding them.

    Rates are ``None`` where the holdout has no member. ``classes`` must know every label; raises RecordError.
    """
    wrong = np.asarray(errors_holdout, dtype=np.bool_)
    _check_lengths(len(table_holdout), wrong, labels_holdout, labels_holdout)
    unknown = sorted(set(labels_holdout) - set(classes.ids))
    if unknown:
        raise RecordError(f"labels of the holdout must be class ids of {list(classes.ids)}, got '{unknown[0]}'")
    return [_confirmed(found, members(found, table_holdout, labels_holdout), wrong) for found in slices]


def _confirmed(found: Slice, mask: Mask, wrong: Mask) -> Slice:
    size, errors = int(mask.sum()), int(wrong[mask].sum())
    if not size:
        return replace(found, holdout_size=0, holdout_error_rate=None, holdout_ci=None)
    return replace(found, holdout_size=size, holdout_error_rate=errors / size, holdout_ci=wilson_interval(errors, size))


# --- saying


#: What a recipe should produce for a condition on a property.
_WEAKNESSES: dict[tuple[str, str], str] = {
    ("brightness", "<"): "dark",
    ("brightness", ">="): "bright",
    ("sharpness", "<"): "blurred",
    ("noise", ">="): "noisy",
    ("contrast", "<"): "low_contrast",
    ("highlights", ">="): "glare",
    ("tilt", ">="): "tilted",
    ("jpeg_quality", "<"): "compressed",
    **dict.fromkeys([("warmth", "<"), ("warmth", ">="), ("tint", "<"), ("tint", ">=")], "colour_cast"),
    ("busyness", ">="): "busy",
    ("width", "<"): "small",
    ("height", "<"): "small",
}

_PHRASES: dict[tuple[str, str], str] = {
    ("brightness", "<"): "darker than most",
    ("brightness", ">="): "brighter than most",
    ("contrast", "<"): "with less contrast than most",
    ("contrast", ">="): "with more contrast than most",
    ("sharpness", "<"): "less sharp than most",
    ("sharpness", ">="): "sharper than most",
    ("noise", "<"): "less noisy than most",
    ("noise", ">="): "noisier than most",
    ("saturation", "<"): "less colourful than most",
    ("saturation", ">="): "more colourful than most",
    ("warmth", "<"): "bluer than most",
    ("warmth", ">="): "redder than most",
    ("tint", "<"): "more magenta than most",
    ("tint", ">="): "greener than most",
    ("tilt", "<"): "more level than most",
    ("tilt", ">="): "more tilted than most",
    ("jpeg_quality", "<"): "compressed more than most",
    ("jpeg_quality", ">="): "compressed less than most",
    ("highlights", "<"): "with less glare than most",
    ("highlights", ">="): "with more glare than most",
    ("busyness", "<"): "plainer than most",
    ("busyness", ">="): "busier than most",
    ("width", "<"): "narrower than most",
    ("width", ">="): "wider than most",
    ("height", "<"): "lower than most",
    ("height", ">="): "higher than most",
    ("aspect", "<"): "upright in shape more than most",
    ("aspect", ">="): "wide in shape more than most",
}


def weakness_of(conditions: Sequence[Condition]) -> str:
    """The weakness that the first telling condition names, ``rare`` where none does.

    >>> weakness_of([Condition("wafer", "=", "poly"), Condition("brightness", "<", 0.2)])
    'dark'
    >>> weakness_of([Condition("wafer", "=", "poly")])
    'rare'
    """
    return next((_WEAKNESSES[c.field, c.op] for c in conditions if (c.field, c.op) in _WEAKNESSES), "rare")


def words(found: Slice, classes: Classes) -> str:
    """A slice as one plain sentence: who is in it, how often the model is wrong there, and how often elsewhere."""
    low, high = found.ci
    rates = f"{found.error_rate:.0%} wrong ({low:.0%} to {high:.0%}), elsewhere {found.rest_error_rate:.0%}"
    text = described(found.conditions, classes)
    return f"{text[0].upper()}{text[1:]}: {rates}"


def described(conditions: Sequence[Condition], classes: Classes, *, numbers: bool = False) -> str:
    """Who is in a slice, in plain words; with ``numbers``, the cut points of measured properties too."""
    who = "images"
    which: list[str] = []
    for condition in conditions:
        phrase = _PHRASES.get((condition.field, condition.op))
        if condition.field == "class":
            who = f"images labeled {classes.name(str(condition.value))}"
        elif condition.field in LOOKS:
            which.append(f"that look alike ({condition.value})")
        elif phrase and numbers:
            which.append(f"{phrase} ({_condition_name(condition, classes)})")
        else:
            which.append(phrase or f"with {_condition_name(condition, classes)}")
    return ", ".join([f"{who} {which[0]}", *which[1:]]) if which else who


def _condition_name(condition: Condition, classes: Classes) -> str:
    if condition.field == "class":
        return f"class = {classes.name(str(condition.value))}"
    value = f"{condition.value:g}" if isinstance(condition.value, float) else condition.value
    if condition.field in LOOKS:
        return f"looks like {value}"
    return f"{condition.field} {condition.op} {value}"
