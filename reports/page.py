"""The HTML report: one file that holds everything, opens from disk, and asks the network for nothing.

Words first (what changed, is it real, what is weak, what next), then pictures and figures. Names and paths come from
users and are escaped by the template engine; pictures are made small and put into the file. The page carries a policy
that forbids scripts and every outside address. The one door to jinja2; Pillow makes the thumbnails.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.audit import Outlook
from curation.costs import cost_words
from curation.credit import credit_words
from curation.images import FORMATS, rgb
from curation.records import Estimate
from curation.runs import write_whole
from curation.words import counted
from reports import plots
from reports.summary import (
    LEFT_OUT,
    Card,
    IterationSummary,
    SliceCard,
    breaks,
    estimate_words,
    gain_badge,
    interval_words,
    percent,
    what_changed,
    what_is_weak,
    worst_pair,
)

THUMBNAIL = 160
PREVIEW = 720
#: Bytes of pictures (as base64) that one report may hold; further ones are left out and said to be.
PICTURE_BUDGET = 4_000_000
MOST_CLASSES = 25
MOST_CARDS = 48
MOST_EXAMPLES = 8
#: Slices that stand open; what follows is folded away.
MOST_SLICES = 6
_MOST_PIXELS = 100_000_000
_TEMPLATES = Path(__file__).resolve().parent / "templates"


class HtmlReporter:
    """Writes an iteration as one HTML file for anybody with a browser."""

    def write(self, summary: IterationSummary, folder: Path) -> Path:
        """Write ``index.html`` into the folder, whole or not at all, in place of an earlier one; returns its path."""
        page = folder / "index.html"
        write_whole(page, self.render(summary))
        return page

    def render(self, summary: IterationSummary) -> str:
        """The report as text. Pictures that can't be read are told of in words; nothing is raised for them."""
        pictures = _Pictures(PICTURE_BUDGET)
        return render(
            "report.html",
            picture=pictures.thumbnail,
            preview=pictures.preview,
            percent=percent,
            estimate=estimate_words,
            interval=interval_words,
            **page_facts(summary),
        )


def render(template: str, **given: Any) -> str:
    """A template of this package with these values, everything in them escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    helpers = {name: value for name, value in given.items() if callable(value)}
    environment.globals.update(helpers)  # macros of other files see them too
    return environment.get_template(template).render(given)


def page_facts(summary: IterationSummary) -> dict[str, Any]:
    """Everything that the template shows, as plain values, words and charts (pure; no picture is opened)."""
    worst, changed = summary.worst[:MOST_CARDS], summary.changed[:MOST_CARDS]
    fixed = [card for card in summary.slices if card.slice.status == "fixed"]
    weak = [card for card in summary.slices if card.slice.status != "fixed"]
    return {
        "summary": summary,
        "badge": gain_badge(summary.gain),
        "changed_words": what_changed(summary),
        "weak_words": what_is_weak(summary),
        "figures": figures(summary),
        "audit": audit_lines(summary),
        "cost_words": cost_words(summary.costs, summary.cost_class) if summary.costs else "",
        "credit_words": credit_words(summary.credits) if summary.credits else "",
        "issue_words": issue_words(summary.issues),
        "worst": worst,
        "changed": changed,
        "shown_words": shown_words(changed, summary.labels_changed + summary.labels_excluded),
        "confusion": confusion_table(summary),
        "slice_chart": slice_chart(weak),
        "slice_groups": slice_groups(weak, fixed),
        "class_chart": class_chart(summary),
        "reliability_chart": reliability_chart(summary.reliability),
        "curve_chart": curve_chart(summary),
        "breaks": breaks((row.number, row.otherwise, row.size) for row in summary.rows),
        "has_key": any(row.still_wrong is not None for row in summary.rows),
        "links": {name: url for name, url in summary.links.items() if is_safe_link(url)},
        "most_examples": MOST_EXAMPLES,
    }


def shown_words(changed: Sequence[Card], most: int) -> str:
    """What the cards of changed labels are, and of how many, where at least ``most`` were changed or left out."""
    kinds = Counter("out" if card.current == LEFT_OUT else "changed" if card.given else "new" for card in changed)
    parts = [
        counted(kinds[kind], one, many)
        for kind, one, many in (
            ("changed", "changed label", "changed labels"),
            ("new", "first label", "first labels"),
            ("out", "image left out of training", "images left out of training"),
        )
        if kinds[kind]
    ]
    of_all = f" of {most}" if most > len(changed) else ""
    return f"{len(changed)}{of_all} shown{': ' + ', '.join(parts) if len(parts) > 1 else ''}."


def is_safe_link(url: str) -> bool:
    """Whether a link may stand in the report: web pages, mail-free, and places beside the report itself.

    >>> is_safe_link("http://127.0.0.1:8080/x"), is_safe_link("java" + "script:alert(1)"), is_safe_link("table.csv")
    (True, False, True)
    """
    scheme, colon, _ = url.partition(":")
    return not colon or "/" in scheme or scheme.lower() in ("http", "https", "file")


@dataclass(frozen=True)
class Figure:
    """A key figure: its name, its value in words, what it was before, and what it means."""

    name: str
    value: str
    before: str
    meaning: str


def figures(summary: IterationSummary) -> list[Figure]:
    """The holdout's three figures with their intervals, and how they were before."""
    after, before = summary.metrics, summary.before
    if after is None:
        return []
    named = (
        ("Accuracy", "accuracy", "share of holdout images that the model gets right"),
        ("Balanced accuracy", "balanced_accuracy", "the same, with every class counting alike"),
    )
    shown = [
        Figure(
            name, estimate_words(getattr(after, field)), percent(getattr(before, field).value) if before else "", say
        )
        for name, field, say in named
    ]
    loss = after.log_loss
    shown.append(
        Figure(
            "Log loss",
            f"{loss.value:.3f}" + (f" ({loss.ci[0]:.3f} to {loss.ci[1]:.3f})" if loss.ci else ""),
            f"{before.log_loss.value:.3f}" if before else "",
            "how far stated confidence is from the truth; lower is better",
        )
    )
    return shown


def audit_lines(summary: IterationSummary) -> list[tuple[str, str]]:
    """What reviews say of the flagging and of the labels left: pairs of what and how much."""
    audit = summary.audit
    wrong = audit.labels_wrong
    ci = audit.labels_wrong_ci or (wrong.ci if wrong else None)
    count = "" if wrong is None else f"about {wrong.value:.0f}" + (f" ({ci[0]:.0f} to {ci[1]:.0f})" if ci else "")
    lines = [
        ("Of the flagged labels, really wrong", estimate_words(audit.flagger_precision, "")),
        ("Of the wrong labels, flagged", estimate_words(audit.flagger_recall, "")),
        ("Labels still wrong", count),
        ("Wrong by place in the queue", _shares_words(audit.by_rank)),
        ("Wrong by given class", _shares_words(audit.by_class[:5])),
        ("The suggestion is named more often where it is shown", sway_words(audit.sway)),
        *((f"The next {ahead.reviews} reviews", outlook_words(ahead)) for ahead in audit.outlook),
    ]
    return [(what, much) for what, much in lines if much]


def _shares_words(shares: Sequence[tuple[str, Estimate]]) -> str:
    return ", ".join(f"{name} {share.value:.0%}" for name, share in shares) if len(shares) > 1 else ""


def sway_words(sway: Estimate | None) -> str:
    """How far shown suggestions sway people, '' where it is not known.

    >>> sway_words(Estimate(0.12, (0.01, 0.22)))
    'by 12 points (+1 to +22), so it sways people'
    >>> sway_words(Estimate(0.02, (-0.1, 0.14)))
    'by 2 points (-10 to +14): no sway shown'
    """
    if sway is None or sway.ci is None:
        return ""
    low, high = sway.ci
    said = f"by {100 * sway.value:z.0f} points ({100 * low:+z.0f} to {100 * high:+z.0f})"
    return f"{said}, so it sways people" if low > 0 else f"{said}: no sway shown"


def outlook_words(ahead: Outlook) -> str:
    """What so many more reviews would bring, for people.

    >>> outlook_words(Outlook(50, Estimate(20.4, (11.0, 30.0)), Estimate(-0.0004, (-0.001, 0.009))))
    'put about 20 labels right (11 to 30), for +0.0 points of accuracy (-0.1 to +0.9)'
    """
    low, high = ahead.errors_found.ci or (ahead.errors_found.value, ahead.errors_found.value)
    said = f"{ahead.words} ({low:.0f} to {high:.0f})"
    if ahead.gain is None or ahead.gain.ci is None:
        return said
    worst, best = ahead.gain.ci
    return f"{said}, for {100 * ahead.gain.value:+z.1f} points of accuracy ({100 * worst:+z.1f} to {100 * best:+z.1f})"


_KINDS = {
    "label": "labels that look wrong",
    "label_conflict": "pictures with two labels",
    "near_duplicate": "near duplicates",
    "leak": "holdout images that are in train too",
    "outlier": "outliers",
    "class_imbalance": "images of a class that has hardly any",
    "dark": "dark images",
    "light": "overexposed images",
    "blurry": "blurry images",
    "low_information": "images with little in them",
    "odd_size": "images of odd size",
    "odd_aspect_ratio": "images of odd shape",
}


def issue_words(issues: Mapping[str, int]) -> list[tuple[str, int]]:
    """Kinds of issues in words, most first.

    >>> issue_words({"dark": 2, "label": 40, "outlier": 0})
    [('labels that look wrong', 40), ('dark images', 2)]
    """
    found = [(_KINDS.get(kind, kind.replace("_", " ")), count) for kind, count in issues.items() if count]
    return sorted(found, key=lambda entry: (-entry[1], entry[0]))


@dataclass(frozen=True)
class ConfusionRow:
    """A labeled class: its holdout size, and for each predicted class (count, shade 0..4, is it right)."""

    name: str
    size: int
    cells: tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True)
class ConfusionTable:
    """The confusion matrix as a table; of many classes only those with the most errors."""

    columns: tuple[str, ...]
    rows: tuple[ConfusionRow, ...]
    words: str


def confusion_table(summary: IterationSummary) -> ConfusionTable | None:
    """The heat map's cells: rows are labels, columns predictions; shade by share of the row."""
    counts, names = summary.confusion, summary.classes
    if not counts:
        return None
    kept = _most_confused(counts, MOST_CLASSES)
    rows = []
    for i in kept:
        size = sum(counts[i])
        cells = tuple((counts[i][j], _shade(counts[i][j], size), i == j) for j in kept)
        rows.append(ConfusionRow(names[i], size, cells))
    pair = worst_pair(summary)
    said = "No errors on the holdout."
    if pair:
        said = f"Most often, {pair[0]} is taken for {pair[1]}: {pair[2]} times."
    if len(kept) < len(names):
        said += f" Shown are the {len(kept)} classes with the most errors, of {len(names)}."
    return ConfusionTable(tuple(names[j] for j in kept), tuple(rows), said)


def _most_confused(counts: Sequence[Sequence[int]], most: int) -> list[int]:
    if len(counts) <= most:
        return list(range(len(counts)))
    errors = [sum(row) - row[i] + sum(other[i] for other in counts) - row[i] for i, row in enumerate(counts)]
    return sorted(sorted(range(len(counts)), key=lambda i: -errors[i])[:most])


def _shade(count: int, size: int) -> int:
    """0 for none, then 1 to 4 by share of the row: up to 10, 30, 60, 100 %."""
    if not count or not size:
        return 0
    return 1 + sum(count / size > bound for bound in (0.1, 0.3, 0.6))


def slice_groups(weak: Sequence[SliceCard], fixed: Sequence[SliceCard]) -> list[tuple[str, Sequence[SliceCard]]]:
    """The slices under what they are folded away by: nothing for the weakest, which come first."""
    more, gone = weak[MOST_SLICES:], counted(len(fixed), "group", "groups")
    groups = [
        ("", weak[:MOST_SLICES]),
        (counted(len(more), "more weak slice", "more weak slices"), more),
        (f"{gone} no longer weaker than others", fixed),
    ]
    return [(words, cards) for words, cards in groups if cards]


def slice_chart(cards: Sequence[SliceCard]) -> Any:
    """Error rates of slices with intervals; the thin mark is the rest of the images."""
    if not cards:
        return None
    drawn = [
        plots.Bar(f"{c.slice.name} ({c.slice.size})", c.slice.error_rate, c.slice.ci, c.slice.rest_error_rate)
        for c in cards
    ]
    told = "; ".join(f"{bar.name}: {estimate_words(Estimate(bar.value, bar.ci))}" for bar in drawn)
    return plots.bars(drawn, "slices", "Error rate of each weak slice, with 95 % interval", told)


def class_chart(summary: IterationSummary) -> Any:
    """Holdout accuracy of each class, weakest first."""
    if summary.metrics is None or not summary.metrics.per_class:
        return None
    classes = sorted(summary.metrics.per_class.items(), key=lambda entry: entry[1].value)[:MOST_CLASSES]
    drawn = [plots.Bar(name, estimate.value, estimate.ci) for name, estimate in classes]
    told = "; ".join(f"{bar.name}: {estimate_words(Estimate(bar.value, bar.ci))}" for bar in drawn)
    return plots.bars(drawn, "classes", "Holdout accuracy of each class, with 95 % interval", told)


def reliability_chart(bins: Sequence[tuple[float, float, int]]) -> Any:
    """Stated confidence against the truth."""
    if not any(count for _, _, count in bins):
        return None
    told = "; ".join(f"confidence {percent(m, 0)}: right {percent(hit, 0)} of {n}" for m, hit, n in bins if n)
    return plots.reliability(bins, "reliability", "How often the model is right, by its confidence", told)


def curve_chart(summary: IterationSummary) -> Any:
    """Holdout accuracy over the iterations."""
    known = [(row.number, row.accuracy) for row in summary.rows if row.accuracy is not None]
    if len(known) < 2:
        return None
    points = [plots.Point(number, accuracy.value, accuracy.ci) for number, accuracy in known]
    told = "; ".join(f"iteration {number}: {estimate_words(accuracy)}" for number, accuracy in known)
    title = "Holdout accuracy over the iterations, with 95 % intervals"
    return plots.curve(points, "curve", title, told, "Iteration", "Accuracy, %")


class _Pictures:
    """Small copies of pictures as ``data:`` addresses, until the budget is spent; '' for one that is left out."""

    def __init__(self, budget: int) -> None:
        self.left = budget

    def thumbnail(self, card: Card) -> str:
        return self._spend(card.file, THUMBNAIL, card.bits)

    def preview(self, png: bytes) -> str:
        return self._spend(io.BytesIO(png), PREVIEW)

    def _spend(self, source: Path | io.BytesIO, side: int, bits: int = 16) -> str:
        address = picture_address(source, side, bits) if self.left > 0 else ""
        if len(address) > self.left:
            return ""
        self.left -= len(address)
        return address


def picture_address(source: Path | io.BytesIO, side: int, bits: int = 16) -> str:
    """A picture as the model is given it (``bits`` as of ``curation.images.read_image``), as a JPEG ``data:`` address.

    Neither side is above ``side`` pixels; '' where it can't be read.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a large picture is refused below, not warned of
            with Image.open(source, formats=FORMATS) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    return ""
                opened.draft("RGB", (2 * side, 2 * side))
                image = rgb(ImageOps.exif_transpose(opened), bits)
                image.thumbnail((side, side))
                into = io.BytesIO()
                image.save(into, "JPEG", quality=82, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for broken files
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(into.getvalue()).decode("ascii")
