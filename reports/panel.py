"""What the Curation panel of the App says and draws: what was recorded in, words and plots out (pure).

``reports/fiftyone_plugin`` shows it. Only ``strip`` opens files.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = {"number": "Iteration", "changed": "Changed", "issues": "Issues", "accuracy": "Accuracy"}
CHIPS = "On each picture: its label, the prediction, and the label's quality (0 worst, 100 best)."
#: More classes than these get a list to choose from in place of a button each.
MOST_BUTTONS = 12
_GAP = "&nbsp;\n\n"
_THUMB = 96


def complete_iterations(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Iterations that were written to the end, oldest first; one that was cut off is not shown."""
    entries = [entry for entry in info.get("iterations", {}).values() if entry.get("complete")]
    return sorted(entries, key=lambda entry: entry["number"])


def table_rows(recorded: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table's rows; FiftyOne's tables take text only."""
    return [
        {
            "number": str(entry["number"]),
            "changed": f"{entry['changed']} of {entry['reviewed']}",
            "issues": str(entry["issues"].get("label", 0)),
            "accuracy": entry["accuracy"],
        }
        for entry in recorded
    ]


def headline(entry: Mapping[str, Any]) -> str:
    """The last iteration in a few words of Markdown."""
    said = [f"**Iteration {entry['number']} of {plain(entry['project'])}**"]
    said.append(f"Holdout accuracy {entry['accuracy']}. {plain(entry['gain'])}".strip())
    said += [f"- {plain(advice)}" for advice in entry["advice"][:4]]
    return "\n\n".join(said[:2]) + ("\n\n" + "\n".join(said[2:]) if said[2:] else "")


def slice_words(weak: Mapping[str, Any]) -> str:
    """A weak slice as a line of Markdown, with its recipe's before and after where one was applied."""
    said = f"**{plain(weak['name'])}**: {weak['error']} wrong ({weak['interval']}) of {weak['size']}, "
    said += f"elsewhere {weak['rest']}; {weak['status']}."
    if weak["recipe"]:
        said += f" Recipe: {plain(weak['recipe'])}."
        if weak.get("before") and weak.get("after"):
            said += f" Wrong on the holdout before: {weak['before']}, after: {weak['after']}."
    return said


def audit_words(entry: Mapping[str, Any]) -> str:
    """What labelers' answers say of the flagging, as Markdown; '' where nothing is known."""
    lines = [f"- {plain(what)}: {plain(much)}" for what, much in entry.get("audit", ())]
    return f"{_GAP}**The flagging, judged by labelers**\n\n" + "\n".join(lines) if lines else ""


def cause_words(causes: Mapping[int, Mapping[str, int]]) -> str:
    """Causes of errors that reviewers named, by iteration, as a Markdown list; '' where there is none.

    >>> cause_words({1: {"glare": 2}, 2: {"glare": 1, "rare": 1}}).splitlines()[-2:]
    ['- glare: 2 (iteration 1), 1 (iteration 2)', '- rare: 1 (iteration 2)']
    """
    names = list(dict.fromkeys(cause for counts in causes.values() for cause in counts))
    lines = [
        f"- {plain(name)}: "
        + ", ".join(f"{counts[name]} (iteration {number})" for number, counts in causes.items() if name in counts)
        for name in names
    ]
    return f"{_GAP}**Why the model errs, as reviewers see it**\n\n" + "\n".join(lines) if lines else ""


def selected_words(count: int, reviewer: str) -> str:
    """What the buttons below would act on, as Markdown.

    >>> selected_words(2, "Ann")
    '**2 images selected**, judged as Ann:'
    """
    if not count:
        return f"{_GAP}**Judge images**: tick one or more at their upper left corner."
    return f"**{count} {'image' if count == 1 else 'images'} selected**, judged as {plain(reviewer)}:"


def title(words: str) -> str:
    """A section's title as Markdown, with air above."""
    return f"{_GAP}**{words}**"


def curve(recorded: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
    """Holdout accuracy over the iterations with its intervals: plotly's data and layout; ``None`` for less than two."""
    known = [(e["number"], *e["point"]) for e in recorded if e.get("point")]
    if len(known) < 2:
        return None
    numbers, values, lows, highs = (list(column) for column in zip(*known, strict=True))
    percent = [100 * value for value in values]
    data = [
        {
            "type": "scatter", "mode": "lines+markers", "x": numbers, "y": percent, "name": "accuracy",
            "line": {"color": "#f58518"}, "marker": {"size": 8},
            "error_y": {"type": "data", "symmetric": False, "color": "#f58518",
                        "array": [100 * (high - value) for high, value in zip(highs, values, strict=True)],
                        "arrayminus": [100 * (value - low) for low, value in zip(lows, values, strict=True)]},
        }
    ]  # fmt: skip
    layout = {
        "height": 240, "margin": {"l": 48, "r": 12, "t": 8, "b": 40}, "showlegend": False,
        "xaxis": {"title": {"text": "Iteration"}, "dtick": max(1, len(numbers) // 10), "fixedrange": True},
        "yaxis": {"title": {"text": "Holdout accuracy, %"}, "fixedrange": True},
    }  # fmt: skip
    return data, layout


def button_words(words: str) -> str:
    """A view's description without its iteration: the panel speaks of the last one only."""
    short = re.sub(r"^Iteration \d+: ", "", words)
    return short[:1].upper() + short[1:60] + ("…" if len(short) > 60 else "")


def first_to_look_at(counts: Sequence[int]) -> int:
    """Which of the views, by how many images each holds now, is to be looked at first: an empty one has been done.

    >>> first_to_look_at([0, 27, 5]), first_to_look_at([3, 1]), first_to_look_at([0, 0])
    (1, 0, 0)
    """
    return next((position for position, count in enumerate(counts) if count), 0)


def plain(text: str) -> str:
    """Somebody's words as plain text in Markdown: no markup, no link, no line break of theirs."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", re.sub(r"\s+", " ", text))


def strip(files: Sequence[str | Path], side: int = _THUMB, bits: int = 16) -> str:
    """Small copies of pictures side by side, as one JPEG ``data:`` address; '' where none can be read.

    They look as the model is given them, ``bits`` as of ``curation.images.read_image``.
    """
    from PIL import Image, ImageOps

    from curation.images import FORMATS, rgb

    thumbs = []
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(file, formats=FORMATS) as image:
                    image.draft("RGB", (2 * side, 2 * side))
                    thumbs.append(ImageOps.pad(rgb(ImageOps.exif_transpose(image), bits), (side, side)))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    if not thumbs:
        return ""
    sheet = Image.new("RGB", (len(thumbs) * (side + 4) - 4, side), "#808080")
    for place, thumb in enumerate(thumbs):
        sheet.paste(thumb, (place * (side + 4), 0))
    into = io.BytesIO()
    sheet.save(into, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(into.getvalue()).decode("ascii")
