"""All iterations on one page and in a notebook: what is shown, and that names stay text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from curation.figures import metrics_json
from curation.reporting import in_full
from curation.terminal import table_of
from reports.overview import Overview, notebook_html, overview_facts, slice_history, write_overview
from reports.page import HtmlReporter
from tests.reports.cases import CLASSES, SLICE, make_images, make_overview, make_summary

FILES = [Path(f"{n}.png") for n in range(24)]


@pytest.fixture(scope="module")
def overview() -> Overview:
    return make_overview(FILES)


def test_page_shows_every_iteration_and_leads_to_its_report(overview: Overview, tmp_path: Path) -> None:
    page = write_overview(overview, tmp_path / "report").read_text(encoding="utf-8")
    for words in ("75.0 % (70.0 to 80.0 %)", "77.0 % (72.0 to 82.0 %)", "79.0 % (74.0 to 84.0 %)"):
        assert words in page
    assert '<a href="../iterations/002/report/index.html">2</a>' in page
    assert page.count("<svg") == 3  # accuracy, balanced accuracy, precision of the flagging
    assert len(page) < 5_000_000


def test_names_are_never_markup_and_no_link_runs_a_script(overview: Overview) -> None:
    for page in (write_text(overview), notebook_html(overview)):
        assert "<script>" not in page
        assert "<b>" not in page
        assert "javascript:" not in page
        assert "http://127.0.0.1:8080/" in page


def write_text(overview: Overview) -> str:
    from reports.page import render

    return render("overview.html", **overview_facts(overview))


def test_causes_are_compared_over_iterations(overview: Overview) -> None:
    facts = overview_facts(overview)
    assert facts["causes"] == {"numbers": [1, 2], "rows": [("rare", [0, 4]), ("<b>glare</b>", [2, 1])]}
    assert facts["totals"] == {"reviewed": 60, "changed": 3, "excluded": 0}
    assert facts["issues"][0] == ("labels that look wrong", [3, 3, 3])


def test_a_slice_has_its_history(overview: Overview) -> None:
    without = [{**metrics, "slices": []} if metrics["number"] == 1 else metrics for metrics in overview.iterations]
    [weak] = slice_history(without)
    assert (weak["name"], weak["status"]) == (SLICE, "open")
    assert weak["rates"] == ["40.0 % (25.0 to 58.0 %)", "", "40.0 % (25.0 to 58.0 %)"]


def test_project_without_iterations_says_so() -> None:
    empty = Overview("p", [])
    assert "No iteration has been finished yet" in write_text(empty)
    assert "project.run()" in notebook_html(empty)


def test_everything_that_the_report_shows_is_there_as_json(tmp_path: Path) -> None:
    summary = make_summary(make_images(tmp_path), 2)
    full = json.loads(json.dumps(in_full(summary), allow_nan=False))
    assert full["words"]["real"] == "Better"
    assert full["classes"] == list(CLASSES)
    assert full["confusion"] == [[10, 3, 0], [1, 12, 0], [0, 0, 14]]
    assert full["metrics"]["accuracy"] == {"value": 0.79, "ci": [0.74, pytest.approx(0.84)]}
    assert full["worst"][0]["reason"] == "looks like <i>another</i>"
    assert full["slices"][0]["slice"]["name"] == SLICE


def test_iterations_that_were_trained_otherwise_are_told_wherever_they_stand_side_by_side(tmp_path: Path) -> None:
    summary = make_summary(make_images(tmp_path), 2)
    assert summary.gain is not None
    rows = (*summary.rows[:2], replace(summary.rows[2], otherwise=("backbone.name <a>, then b",)))
    told = replace(summary, rows=rows, gain=replace(summary.gain, otherwise=rows[2].otherwise, shown=False))
    overview = Overview("p", [metrics_json(make_summary(FILES, 0)), metrics_json(told)])
    words = "Iteration 2 was trained otherwise than the one before: backbone.name &lt;a&gt;, then b."
    page = HtmlReporter().render(told)
    assert words in page
    assert ">Trained otherwise<" in page
    for shown in (write_overview(overview, tmp_path / "r").read_text(encoding="utf-8"), notebook_html(overview)):
        assert words in shown
    assert "trained otherwise" not in HtmlReporter().render(summary)


def test_a_holdout_that_has_grown_is_told_beside_table_and_chart(tmp_path: Path) -> None:
    first, second = make_summary(FILES, 0), make_summary(FILES, 1)
    assert first.metrics is not None
    first = replace(first, metrics=replace(first.metrics, size=12))
    rows = (replace(second.rows[0], size=12), replace(second.rows[1], size=40))
    overview = Overview("p", [metrics_json(first), metrics_json(second)])
    words = "Iteration 1 was measured on 40 images of the holdout, the one before on 12"
    assert HtmlReporter().render(replace(second, rows=rows)).count(words) == 2
    assert write_overview(overview, tmp_path).read_text(encoding="utf-8").count(words) == 2
    assert notebook_html(overview).count(words) == 1
    status = {"baseline": overview.iterations[0], "iterations": [{**overview.iterations[1], "state": "done"}]}
    assert table_of(status).splitlines()[-1].startswith(words)
