"""Weak slices: groups of samples with something in common on which the model is wrong more often than by chance.

The search tries every conjunction of up to ``max_conditions`` conditions on class, metadata and measured properties,
as sums of products of one 0/1 matrix (Sagadeeva and Boehm, "SliceLine", SIGMOD 2021). How far the best of them would
stand out if errors fell on the samples at random is found by permuting the errors (Westfall and Young 1993), so a
slice is reported only where it is more than the best of thousands of tries on noise.
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

#: Numeric columns are cut at these quantiles: below the first, at or above the second.
LOW_CUTS, HIGH_CUTS = (0.05, 0.10, 0.25), (0.75, 0.90, 0.95)
#: A whole-number column of metadata with no more values than this is read as categories.
FEW_VALUES = 10
#: Values of a category beyond the most frequent ones are not tried, nor are more slices reported than people can use.
MOST_VALUES, MOST_SLICES = 50, 10
#: A slice whose error rate is less than this times the rest's is no weakness, however sure it is.
LEAST_RISE = 1.2
#: Permutations: as many as this many multiplications allow, within the two bounds.
_FEWEST, _MOST, _WORK = 200, 1000, 1.5e11
#: Pairs of conditions that are refined by a third.
_BEAM = 25
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

    ``table`` holds metadata and properties, one row a sample in the order of ``errors`` (shape (samples,), bool:
    the out-of-sample prediction differs from the label), ``sample_ids`` and ``labels`` (class ids). The chance that
    any slice at all is reported where errors fall at random is at most ``settings.alpha``; ``p_value`` is corrected
    for everything that was tried. Of slices that overlap, a further one is reported only where it stands out beyond
    what those before it explain. Raises RecordError where lengths differ.
    """
    wrong = np.asarray(errors, dtype=np.bool_)
    _check_lengths(len(table), wrong, sample_ids, labels)
    if not wrong.any() or wrong.all():
        return []
    atoms = _find_atoms(table, labels, classes, settings.min_size)
    if not atoms.conditions:
        return []
    search = _Search(atoms, settings.min_size, settings.max_conditions)
    # Half of alpha is left for the later slices, which are held against what chance reaches in the first.
    chance = _best_by_chance(search, wrong, settings.alpha / 2, np.random.default_rng(seed))
    found = [
        _slice_of(conditions, mask, wrong, sample_ids, classes, p_value)
        for conditions, mask, p_value in _pick(search, wrong, chance, settings.alpha / 2)
    ]
    return sorted(found, key=lambda s: ((s.rest_error_rate - s.error_rate) * s.size, s.name))


def _check_lengths(rows: int, errors: Mask, sample_ids: Sequence[str], labels: Sequence[str]) -> None:
    if not (errors.shape == (rows,) and len(sample_ids) == rows and len(labels) == rows):
        raise RecordError(
            f"slices need one error, sample id and label a row of the table ({rows} rows), "
            f"got {errors.shape}, {len(sample_ids)} and {len(labels)}"
        )


class _Search:
    """All conjunctions of an ``_Atoms`` up to a depth, to be scored for any pattern of errors."""

    def __init__(self, atoms: _Atoms, min_size: int, depth: int) -> None:
        self.atoms = atoms
        self.min_size = min_size
        self.depth = depth
        self.rows = len(atoms.masks)
        self.joint = _joint(atoms.masks, atoms.masks)
        self.flat = self._singles_and_pairs()

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

    def score(self, wrong: Mask, chosen: Sequence[Mask] = ()) -> tuple[_Candidates, Scores]:
        """Candidates and how far each stands out, shape (candidates,), in standard deviations; < 0: fewer errors.

        Within the strata that the chosen slices cut the rows into, so that what these explain counts for nothing.
        """
        strata = list(_strata(chosen, self.rows))
        masks = self.atoms.masks
        first, second = self.flat.parts.T
        sums = _Sums(len(first))
        for stratum in strata:
            inside = self.joint if len(strata) == 1 else _joint(masks[stratum], masks[stratum])
            seen = _seen(masks, masks, inside, wrong, stratum)
            sums.add(seen[first, second], inside[first, second], int(wrong[stratum].sum()), int(stratum.sum()))
        scores = sums.scores()
        return self._with_triples(scores, wrong, strata) if self.depth > 2 else (self.flat, scores)

    def _with_triples(self, scores: Scores, wrong: Mask, strata: Sequence[Mask]) -> tuple[_Candidates, Scores]:
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
        for stratum in strata:
            inside = sizes if len(strata) == 1 else _joint(both[stratum], masks[stratum])
            seen = _seen(both, masks, inside, wrong, stratum)
            sums.add(seen[row, third], inside[row, third], int(wrong[stratum].sum()), int(stratum.sum()))
        flat = np.concatenate([self.flat.parts, self.flat.parts[:, 1:]], axis=1)
        parts = np.concatenate([flat, np.stack([first[row], second[row], third], axis=1)])
        together = _Candidates(parts, np.concatenate([self.flat.sizes, sizes[row, third].astype(np.float64)]))
        return together, np.concatenate([scores, sums.scores()])

    def conditions(self, parts: npt.NDArray[np.int64]) -> tuple[Condition, ...]:
        """The conditions of a candidate, in the order of fields."""
        return tuple(self.atoms.conditions[number] for number in sorted(set(parts.tolist())))

    def mask(self, parts: npt.NDArray[np.int64]) -> Mask:
        """Which rows a candidate holds."""
        members: Mask = np.logical_and.reduce([self.atoms.masks[:, number] > 0 for number in set(parts.tolist())])
        return members


class _Sums:
    """Errors seen minus expected, and their variance, summed over strata (Mantel and Haenszel 1959)."""

    def __init__(self, candidates: int) -> None:
        self.surplus = np.zeros(candidates)
        self.variance = np.zeros(candidates)

    def add(self, seen: Counts, sizes: Counts, errors: int, rows: int) -> None:
        """A stratum: of its ``rows``, ``errors`` are wrong; candidates have ``sizes`` rows there, ``seen`` wrong."""
        if rows < 2:
            return
        rate = errors / rows
        self.surplus += seen - sizes * rate
        self.variance += sizes * (rate * (1 - rate) / (rows - 1)) * (rows - sizes)

    def scores(self) -> Scores:
        return standing_out(self.surplus, self.variance)


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


def _seen(left: Counts, right: Counts, inside: Counts, wrong: Mask, stratum: Mask) -> Counts:
    """Errors in a stratum for each pair of columns; from the right ones, where these are fewer (``inside`` is all)."""
    few = 2 * int(wrong[stratum].sum()) <= int(stratum.sum())
    rows = stratum & (wrong if few else ~wrong)
    counted = _joint(left[rows], right[rows])
    return counted if few else inside - counted


def _joint(left: Counts, right: Counts) -> Counts:
    """How many rows hold each pair of a left and a right column."""
    counts: Counts = left.T @ right
    return counts


def _strata(chosen: Sequence[Mask], rows: int) -> Iterator[Mask]:
    """The parts that these masks cut the rows into."""
    codes = np.zeros(rows, dtype=np.int64)
    for number, mask in enumerate(chosen):
        codes |= mask.astype(np.int64) << number
    for code in np.unique(codes):
        yield codes == code


def _best_by_chance(search: _Search, wrong: Mask, level: float, rng: np.random.Generator) -> Scores:
    """The best score that each of many permutations of the errors reaches, shape (permutations,).

    Stops as soon as so many of them reach the score of the errors themselves that no slice can be told from chance.
    """
    work = float(wrong.sum()) * len(search.atoms.conditions) ** 2
    count = int(np.clip(_WORK / work, _FEWEST, _MOST))
    seen = search.score(wrong)[1].max(initial=0.0)
    best: list[float] = []
    reached = 0
    while len(best) < count and (1 + reached) / (1 + count) <= level:
        best.append(float(search.score(rng.permutation(wrong))[1].max(initial=0.0)))
        reached += best[-1] >= seen - _TIE
    return np.array(best + [np.inf] * (count - len(best)))


def _pick(
    search: _Search, wrong: Mask, chance: Scores, level: float
) -> Iterator[tuple[tuple[Condition, ...], Mask, float]]:
    """The slice that stands out most, then the one that does so beyond it, and so on, each with its p-value.

    A further condition must raise the squared score by twice the logarithm of how many could have been added.
    """
    price = 2 * np.log(max(len(search.atoms.conditions), 2))
    chosen: list[Mask] = []
    while len(chosen) < MOST_SLICES:
        candidates, scores = search.score(wrong, chosen)
        p_values = (1 + (chance[None, :] >= scores[:, None] - _TIE).sum(axis=1)) / (1 + len(chance))
        depths = np.array([len(set(parts)) for parts in candidates.parts.tolist()])
        merit = np.where((p_values <= level) & (scores > 0), scores**2 - price * (depths - 1), -np.inf)
        best = _first_weak(search, candidates, merit, wrong)
        if best is None:
            return
        mask = search.mask(candidates.parts[best])
        chosen.append(mask)
        yield search.conditions(candidates.parts[best]), mask, float(p_values[best])


def _first_weak(search: _Search, candidates: _Candidates, merit: Scores, wrong: Mask) -> int | None:
    """The candidate of most merit whose error rate is also clearly above the rest's."""
    for number in np.argsort(-merit, kind="stable"):
        if merit[number] == -np.inf:
            return None
        mask = search.mask(candidates.parts[number])
        if wrong[mask].mean() >= LEAST_RISE * wrong[~mask].mean():
            return int(number)
    return None


def _slice_of(
    conditions: tuple[Condition, ...],
    mask: Mask,
    wrong: Mask,
    sample_ids: Sequence[str],
    classes: Classes,
    p_value: float,
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
    return f"{_described(found.conditions, classes)}: {rates}"


def _described(conditions: Sequence[Condition], classes: Classes) -> str:
    who = "images"
    which: list[str] = []
    for condition in conditions:
        if condition.field == "class":
            who = f"images labeled {classes.name(str(condition.value))}"
        else:
            which.append(_PHRASES.get((condition.field, condition.op)) or f"with {_condition_name(condition, classes)}")
    text = ", ".join([f"{who} {which[0]}", *which[1:]]) if which else who
    return text[0].upper() + text[1:]


def _condition_name(condition: Condition, classes: Classes) -> str:
    if condition.field == "class":
        return f"class = {classes.name(str(condition.value))}"
    value = f"{condition.value:g}" if isinstance(condition.value, float) else condition.value
    return f"{condition.field} {condition.op} {value}"
