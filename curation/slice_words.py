"""What the conditions of a slice mean: in words for people, as the weakness that a recipe is for, and by looks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

from curation.errors import printable
from curation.records import Classes, Condition, Slice

#: Columns that say how near images are to one of them begin so, and go on with its sample id; and columns of groups
#: that look alike, which projects of before have.
_LOOKS, _GROUPS = "looks like ", ("looks", "looks_closely")
#: Characters of a path that are told of, its last ones.
_LONGEST = 40


def by_looks(field: str) -> bool:
    """Whether a field tells which images look alike, in no words."""
    return field.startswith(_LOOKS) or field in _GROUPS


def look_of(sample_id: str) -> str:
    """The column that says how near images are to this one."""
    return f"{_LOOKS}{sample_id}"


#: What a recipe should produce for a condition on a property.
WEAKNESSES: dict[tuple[str, str], str] = {
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
    return next((WEAKNESSES[c.field, c.op] for c in conditions if (c.field, c.op) in WEAKNESSES), "rare")


def words(found: Slice, classes: Classes) -> str:
    """A slice as one plain sentence: who is in it, how often the model is wrong there, and how often elsewhere."""
    low, high = found.ci
    rates = f"{found.error_rate:.0%} wrong ({low:.0%} to {high:.0%}), elsewhere {found.rest_error_rate:.0%}"
    rates = rates if found.size else "there are none any more"
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
        elif by_looks(condition.field):
            phrase = "that look alike ({})" if condition.op == "=" else "that look like {} (the nearest {})"
            which.append(phrase.format(*_likeness(condition)))
        elif phrase and numbers:
            which.append(f"{phrase} ({condition_name(condition, classes)})")
        else:
            which.append(phrase or f"with {condition_name(condition, classes)}")
    return ", ".join([f"{who} {which[0]}", *which[1:]]) if which else who


def name_of(conditions: Sequence[Condition], classes: Classes) -> str:
    """What a slice with these conditions is called."""
    return " and ".join(condition_name(c, classes) for c in conditions)


def told_apart(found: Slice, taken: Collection[str]) -> Slice:
    """A slice whose name is none of those taken: by looks with the beginning of its image's id, where paths end alike.

    >>> looks = Condition("looks like 3f9a12c4d5", ">=", 0.9, "b/frame.png")
    >>> found = Slice("looks like frame.png", (looks,), ("a",), 1, 1, 1.0, (0.0, 1.0), 0.0, 0.01)
    >>> told_apart(found, ["looks like frame.png"]).name
    'looks like frame.png (3f9a12c4)'
    """
    if found.name not in taken:
        return found
    names = (f"{found.name} ({mark})" for mark in itertools.chain(marks(found), itertools.count(2)))
    return replace(found, name=next(name for name in names if name not in taken))


def marks(found: Slice) -> list[str]:
    """The beginnings of the ids of the images that a slice looks like, which tell it from others called alike."""
    return [c.field.removeprefix(_LOOKS)[:8] for c in found.conditions if c.field.startswith(_LOOKS)]


def condition_name(condition: Condition, classes: Classes) -> str:
    """A condition as it stands in a slice's name."""
    if condition.field == "class":
        return f"class = {classes.name(str(condition.value))}"
    value = number_text(condition.value) if isinstance(condition.value, float) else condition.value
    if by_looks(condition.field):
        return f"looks like {', nearest '.join(_likeness(condition))}"
    return f"{_shortened(condition.field)} {condition.op} {_shortened(str(value))}"


def _shortened(text: str) -> str:
    """A column or value of the user on one line; a long one cut, told apart by the beginning of its SHA-256.

    >>> _shortened("a\\x1b[31m"), _shortened("x" * 200)[38:]
    ('a\\\\x1b[31m', 'xx… (aa20c23e)')
    """
    shown = printable(text)
    if len(shown) <= 2 * _LONGEST:
        return shown
    return f"{shown[:_LONGEST]}… ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def number_text(value: float) -> str:
    """A number as people read it; whole ones in full, since lots and dates differ in their last digits.

    >>> number_text(20240122.0), number_text(0.21), number_text(3.0)
    ('20240122', '0.21', '3')
    """
    return f"{value:.0f}" if value.is_integer() else f"{value:.15g}"


def _likeness(condition: Condition) -> tuple[str, ...]:
    """What images look like, and which share of all is so near; or the name of their group."""
    if condition.op == "=":
        return (str(condition.value),)
    name = condition.shown or condition.field.removeprefix(_LOOKS)[:12]
    cut = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
    return cut, f"{1 - float(condition.value):.0%}"
