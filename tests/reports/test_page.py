"""The HTML report: says it in words, escapes what users wrote, holds its pictures, and is written whole."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from curation.errors import ProjectError
from curation.records import Estimate
from reports import page
from reports.page import (
    THUMBNAIL,
    HtmlReporter,
    audit_lines,
    confusion_table,
    is_safe_link,
    picture_address,
    shown_words,
)
from reports.summary import LEFT_OUT, Audit, IterationSummary
from tests.reports.cases import CLASSES, PROJECT, SLICE, make_card, make_images, make_summary


class Reading(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def summary(files: list[Path]) -> IterationSummary:
    return make_summary(files, 2)


@pytest.fixture(scope="module")
def read(summary: IterationSummary) -> Reading:
    return Reading(HtmlReporter().render(summary))


def test_names_from_users_are_text_and_never_tags(read: Reading) -> None:
    for name in (PROJECT, *CLASSES, SLICE, "looks like <i>another</i>", "Review <u>twenty</u> more."):
        assert name in read.text
    assert not {"script", "b", "i", "u"} & {tag for tag, _ in read.tags}
    assert all(not name.startswith("on") for _, attributes in read.tags for name in attributes)


def test_page_asks_for_nothing_outside_itself(read: Reading) -> None:
    loaded = [a.get("src") or a.get("href") for tag, a in read.tags if tag in ("img", "link", "script", "iframe")]
    assert loaded
    assert all(address and address.startswith("data:") for address in loaded)


def test_link_that_would_run_a_script_is_left_out(read: Reading) -> None:
    links = [attributes["href"] for tag, attributes in read.tags if tag == "a"]
    assert "http://127.0.0.1:8080/" in links
    assert not [link for link in links if link and link.startswith("javascript")]
    assert not is_safe_link("JavaScript:alert(1)")
    assert not is_safe_link("data:text/html,x")


def test_words_come_before_pictures(read: Reading) -> None:
    answers = ["What changed", "Is it real?", "Better", "What is weak", "What next", "Labels to review"]
    places = [read.text.index(words) for words in answers]
    assert places == sorted(places)


def test_what_is_shown_of_changed_labels_is_what_was_counted(files: list[Path]) -> None:
    card = replace(make_card(files[0]), given="cat", current="dog")
    cards = [card] * 3
    assert shown_words(cards, 3) == "3 shown."
    assert shown_words(cards, 40) == "3 of 40 shown."
    more = [*cards, replace(card, current=LEFT_OUT), replace(card, given="")]
    assert shown_words(more, 4) == "5 shown: 3 changed labels, 1 first label, 1 image left out of training."


def test_large_numbers_have_their_commas(summary: IterationSummary) -> None:
    many = replace(summary, counts={"train": 12345, "holdout": 5})
    assert "12,345 train" in Reading(HtmlReporter().render(many)).text


def test_gain_that_is_not_shown_says_so(files: list[Path]) -> None:
    assert "No change shown" in Reading(HtmlReporter().render(make_summary(files, 1))).text


def test_every_picture_has_words_and_every_table_cell_a_header(read: Reading) -> None:
    assert all(attributes.get("alt") for tag, attributes in read.tags if tag == "img")
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in read.tags if tag == "th")
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in read.tags}


def test_thumbnail_is_a_small_jpeg(files: list[Path], tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.new("RGB", (2000, 1000), "red").save(large)
    kind, _, coded = picture_address(large, 160).partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(coded))).size == (160, 80)


def test_picture_that_cannot_be_read_is_told_of_in_words(summary: IterationSummary, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    for file in (broken, tmp_path / "gone.png"):
        html = HtmlReporter().render(replace(summary, worst=(make_card(file),), changed=(), slices=()))
        assert "picture not shown" in html


def test_deep_grey_and_transparent_pictures_are_shown_as_the_model_is_given_them(
    summary: IterationSummary, tmp_path: Path
) -> None:
    """By 16 bits 1,000 to 4,000 of 4,095 are shades 3 to 15, by 12 bits 62 to 250."""
    deep, clear = tmp_path / "deep.tif", tmp_path / "clear.png"
    Image.fromarray(np.linspace(1_000, 4_000, 64 * 64).reshape(64, 64).astype(np.uint16)).save(deep)
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(clear)
    for bits, lowest, highest in ((16, 3, 15), (12, 62, 250)):
        shades = np.asarray(decoded(picture_address(deep, 64, bits)).convert("L")).astype(int)
        assert abs(shades.min() - lowest) <= 4
        assert abs(shades.max() - highest) <= 4
    card = replace(make_card(deep), bits=12)
    assert picture_address(deep, THUMBNAIL, 12) in HtmlReporter().render(replace(summary, worst=(card,)))
    assert np.asarray(decoded(picture_address(clear, 64))).min() > 250


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_many_pictures_keep_the_file_under_five_megabytes(
    summary: IterationSummary, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PICTURE_BUDGET", 10_000)
    html = HtmlReporter().render(replace(summary, worst=tuple(make_card(file) for file in files)))
    assert sum(map(len, re.findall(r"data:image/jpeg[^\"]*", html))) <= 10_000
    assert "picture not shown" in html
    assert HtmlReporter().render(summary).count("picture not shown") > 0
    monkeypatch.undo()
    assert page.PICTURE_BUDGET + 500_000 < 5_000_000


def test_report_is_replaced_whole_and_leaves_nothing_beside(summary: IterationSummary, tmp_path: Path) -> None:
    written = HtmlReporter().write(summary, tmp_path / "report")
    with pytest.raises(TypeError):
        HtmlReporter().write(replace(summary, worst=None), tmp_path / "report")  # type: ignore[arg-type]
    assert written.read_text(encoding="utf-8") == HtmlReporter().render(summary)
    assert [file.name for file in written.parent.iterdir()] == ["index.html"]


def test_write_that_fails_keeps_the_earlier_report(
    summary: IterationSummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = HtmlReporter().write(summary, tmp_path)
    earlier = written.read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ProjectError, match="no space left on device"):
        HtmlReporter().write(replace(summary, number=1), tmp_path)
    assert written.read_bytes() == earlier
    assert [file.name for file in tmp_path.iterdir()] == ["index.html"]


def test_iteration_without_holdout_reviews_or_slices_still_makes_a_page(summary: IterationSummary) -> None:
    bare = replace(
        summary, metrics=None, before=None, gain=None, audit=Audit(), worst=(), changed=(), slices=(), confusion=(),
        reliability=(), rows=summary.rows[:1], advice=(), links={}, issues={},
    )  # fmt: skip
    text = Reading(HtmlReporter().render(bare)).text
    assert "There is no holdout to measure on yet." in text
    assert "Nothing is pressing." in text


@pytest.mark.parametrize(("repair", "begins"), [("review", "To review: "), ("collect", "Tried in cross-validation. ")])
def test_slice_says_what_is_done_about_it_and_what_that_rests_on(
    summary: IterationSummary, repair: Literal["review", "collect"], begins: str
) -> None:
    (card,) = summary.slices
    weak = replace(card.slice, recipe=None, repair=repair, proof="41 of its 52 labels are flagged.")
    text = Reading(HtmlReporter().render(replace(summary, slices=(replace(card, slice=weak),)))).text
    assert f"{begins}41 of its 52 labels are flagged." in text


def test_slice_without_an_image_in_the_holdout_says_so(summary: IterationSummary) -> None:
    (card,) = summary.slices
    nowhere = replace(card.slice, holdout_size=0, holdout_error_rate=None, holdout_ci=None)
    text = Reading(HtmlReporter().render(replace(summary, slices=(replace(card, slice=nowhere),)))).text
    assert " %. On the holdout: no such image." in text, "a sentence, and the next one behind a space"
    there = Reading(HtmlReporter().render(summary)).text
    assert re.search(r"elsewhere [\d.]+ %\. On the holdout: ", there)


def test_the_weakest_slices_stand_open_and_more_and_fixed_ones_are_folded_away(summary: IterationSummary) -> None:
    (card,) = summary.slices
    weak = [replace(card, words="", slice=replace(card.slice, name=f"weak {n}")) for n in range(8)]
    fixed = replace(card, words="", slice=replace(card.slice, name="strong now", status="fixed"))
    page = HtmlReporter().render(replace(summary, slices=(*weak, fixed)))
    shown = page[page.index('id="slices"') : page.index("<details>")]
    assert [f"<h3>weak {n}</h3>" in shown for n in range(8)] == [True] * 6 + [False] * 2
    assert "<summary>2 more weak slices</summary>" in page
    assert "<summary>1 group no longer weaker than others</summary>" in page
    chart = shown[shown.index("<svg") : shown.index("</svg>")]
    assert "weak 7" in chart
    assert "strong now" not in chart
    assert "<h3>strong now</h3>" in page


def test_a_page_of_fixed_slices_alone_has_no_chart_of_them(summary: IterationSummary) -> None:
    (card,) = summary.slices
    page = HtmlReporter().render(replace(summary, slices=(replace(card, slice=replace(card.slice, status="fixed")),)))
    slices = page[page.index('id="slices"') :]
    assert "<svg" not in slices[: slices.index("</section>")]
    assert "None" not in Reading(slices[: slices.index("</section>")]).text


def test_confusion_is_shaded_by_share_of_the_row(summary: IterationSummary) -> None:
    table = confusion_table(summary)
    assert table is not None
    assert table.rows[0].cells == ((10, 4, True), (3, 2, False), (0, 0, False))
    assert table.rows[0].size == 13


def test_confusion_of_many_classes_shows_those_with_most_errors(summary: IterationSummary) -> None:
    size = 40
    counts = [[5 if i == j else 0 for j in range(size)] for i in range(size)]
    counts[3][37] = 9
    many = replace(summary, classes=tuple(map(str, range(size))), confusion=tuple(map(tuple, counts)))
    table = confusion_table(many)
    assert table is not None
    assert {"3", "37"} <= set(table.columns)
    assert len(table.rows) == page.MOST_CLASSES
    assert "Shown are the 25 classes with the most errors, of 40" in table.words


def test_audit_lines_leave_out_what_is_not_known(summary: IterationSummary) -> None:
    assert audit_lines(replace(summary, audit=Audit())) == []
    known = Audit(Estimate(0.7), None, Estimate(11.6, (4.2, 30.9)))
    assert audit_lines(replace(summary, audit=known)) == [
        ("Of the flagged labels, really wrong", "70.0 %"),
        ("Labels still wrong", "about 12 (4 to 31)"),
    ]
