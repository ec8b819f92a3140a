"""What a reviewer sees: the report from disk and the FiftyOne App, in a real browser on a real MongoDB."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from curation import Project
from curation.config import Settings
from curation.errors import DatabaseError
from labeling.server import LabelStudioServer
from labeling.web import token_client
from reports.app import ReviewApp, app_url
from reports.fiftyone_plan import iteration_facts
from reports.fiftyone_store import FiftyOneReporter, environment
from reports.overview import write_overview
from reports.page import HtmlReporter
from reports.panel import complete_iterations
from tests.reports.cases import (
    EVERY_VIEW,
    PROJECT,
    make_every_view_table,
    make_images,
    make_overview,
    make_summary,
    make_table,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM = Path(os.environ.get("CURATION_CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SIZES = [(1366, 768), (1920, 1080)]
#: The App asks for two web fonts from elsewhere and does without them; nothing else may fail.
FONTS = "fonts.googleapis.com"


@pytest.fixture(scope="module")
def artifacts() -> Path:
    folder = Path(os.environ.get("CURATION_ARTIFACTS", ROOT / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.is_file():
        pytest.fail(f"{CHROMIUM} is missing: install Chromium (apt-get install chromium) or set CURATION_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_images(tmp_path_factory.mktemp("images"))


# --- The report --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["report", "overview"])
def report(request: pytest.FixtureRequest, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    if request.param == "overview":
        return write_overview(make_overview(files), folder).as_uri()
    return HtmlReporter().write(make_summary(files, 2), folder).as_uri()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_report_opens_from_disk_with_the_network_cut(
    browser: Browser, report: str, artifacts: Path, theme: str
) -> None:
    for width, height in SIZES:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme, offline=True)  # type: ignore[arg-type]
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))  # noqa: B023 — read within this turn
        page.on("pageerror", lambda error: said.append(str(error)))  # noqa: B023
        page.on("request", lambda request: asked.append(request.url))  # noqa: B023
        page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))  # noqa: B023
        page.goto(report)
        assert page.locator("h1").inner_text().startswith(PROJECT)
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page must not scroll sideways"
        assert said == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        kind = "overview" if page.get_by_text("all iterations", exact=True).count() else "report"
        page.screenshot(path=artifacts / f"{kind}-{theme}-{width}x{height}.png", full_page=True)
        page.close()


@pytest.mark.parametrize(("theme", "width"), [("light", 1366), ("dark", 1366), ("light", 400)])
def test_report_has_no_serious_accessibility_fault(browser: Browser, report: str, theme: str, width: int) -> None:
    context = browser.new_context(bypass_csp=True, color_scheme=theme, viewport={"width": width, "height": 800})  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(report)
    assert serious_faults(page) == []
    context.close()


NARROW = """() => {
    const width = innerWidth, inside = part => part.getBoundingClientRect().right <= width;
    const across = rows => Math.max(0, ...[...document.querySelectorAll(rows)].map(
        row => new Set([...row.children].map(part => part.getBoundingClientRect().left)).size));
    return {
        "cards": across(".sheet"),
        "dots": [...document.querySelectorAll(".plot .dot, .plot .value")].filter(part => !inside(part)).length,
        "cells": [...document.querySelectorAll(".stack td, .stack th[scope=row]")].filter(part => !inside(part)).length,
        "size": Math.min(...[...document.querySelectorAll(".plot")].map(plot =>
            parseFloat(getComputedStyle(plot).fontSize) * plot.clientWidth / plot.viewBox.baseVal.width)),
    };
}"""


def test_report_on_a_phone_shows_two_cards_a_row_whole_curves_and_every_cell(browser: Browser, report: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(report)
    found = page.evaluate(NARROW)
    assert found.pop("size") > 9, "words in charts, in pixels"
    assert found == {"cards": 2 if page.locator(".sheet").count() else 0, "dots": 0, "cells": 0}
    page.close()


def test_report_is_walked_by_keyboard(browser: Browser, report: str) -> None:
    page = browser.new_page()
    page.goto(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"#main$"), timeout=5_000)
    page.close()


def serious_faults(page: Page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

    found = Axe().run(page).response["violations"]
    return [f"{fault['id']}: {fault['nodes'][0]['html']}" for fault in found if fault["impact"] in SERIOUS]


SERIOUS = ("serious", "critical")


# --- FiftyOne ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A real project over the pictures, with the labels and splits of the made-up iterations."""
    root, table = tmp_path_factory.mktemp("project"), make_table(files, 0)
    table[["path", "given", "split"]].rename(columns={"given": "label"}).to_csv(root / "labels.csv", index=False)
    images = files[0].parent.parent
    return Project.create(root / "p", images, root / "labels.csv", settings=Settings(name=PROJECT))[0]


@pytest.fixture(scope="module")
def reporter(files: list[Path], project: Project) -> Iterator[FiftyOneReporter]:
    made = project.fiftyone()
    try:
        made.record(make_summary(files, 0), make_table(files[:20], 0))
        told = made.record(make_summary(files, 1), make_table(files, 1))
        assert (told["samples"], told["added"]) == (24, 4)
        yield made
    finally:
        made.stop()


READ = """
import json, sys
import fiftyone as fo
dataset = fo.load_dataset(sys.argv[1])
evaluation = dataset.load_evaluation_results("eval_it01")
print("READ" + json.dumps({
    "views": {name: dataset.load_saved_view(name).values("path") for name in dataset.list_saved_views()},
    "order": dataset.list_saved_views(),
    "evaluations": dataset.list_evaluations(),
    "brain": dataset.list_brain_runs(),
    "points": dataset.load_brain_results("pictures").points.tolist(),
    "accuracy": evaluation.metrics()["accuracy"],
    "count": dataset.count(),
    "persistent": dataset.persistent,
    "schema": list(dataset.get_field_schema()),
}))
"""


@pytest.fixture(scope="module")
def stored(reporter: FiftyOneReporter) -> dict[str, Any]:
    """What FiftyOne itself reads back."""
    return read_apart(reporter, READ, reporter.open_dataset_name())


def read_apart(reporter: FiftyOneReporter, script: str, argument: str) -> dict[str, Any]:
    """Run a script that needs FiftyOne in a process of its own; what it prints after READ comes back."""
    answer = subprocess.run(
        [sys.executable, "-c", script, argument],
        env=environment(reporter.mongo.start()),
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(answer.stdout.partition("READ")[2])
    return told


def test_saved_views_hold_the_right_images_in_the_right_order(stored: dict[str, Any]) -> None:
    numbers = {name: [int(path[-6:-4]) for path in paths] for name, paths in stored["views"].items()}
    assert numbers["issues_it01"] == [1, 2, 3]
    assert numbers["changed_it01"] == [4]
    assert numbers["changed_it00"] == []
    assert next(shown for name, shown in numbers.items() if name.startswith("slice_it01_1")) == [6, 7, 8]
    assert numbers["holdout_errors_it01"] == [5]
    assert numbers["duplicates_it01"] == [2]
    assert "conflicts_it01" not in numbers
    assert [name for name in stored["order"] if name.startswith(("issues", "changed"))] == [
        "issues_it01", "changed_it01", "issues_it00", "changed_it00",
    ]  # fmt: skip


def test_dataset_is_kept_and_evaluated_over_the_labeled_images(stored: dict[str, Any]) -> None:
    assert stored["persistent"]
    assert stored["count"] == 24
    assert stored["evaluations"] == ["eval_it00", "eval_it01", "holdout_it00", "holdout_it01"]
    assert stored["accuracy"] == pytest.approx((23 - 5) / 23)  # issues 1, 2, 3, holdout 5, and 4, whose label changed
    assert stored["brain"] == ["pictures"]
    assert sorted(stored["points"]) == [[float(n), -float(n)] for n in range(24)]
    assert {"meta_Light_lx", "prop_brightness"} <= set(stored["schema"])


FORGET = """
import json, sys
from pathlib import Path
import fiftyone as fo
import reports.fiftyone_recording as recording
recording.DETAILED_ITERATIONS = 1
for number in (0, 1, 0):
    recording.record("forgetting", Path(sys.argv[1]) / str(number))
    own = fo.load_dataset("forgetting")
    if number == 0 and "to_discuss_it01" not in own.list_saved_views():
        for name in ("to_discuss_it01", "Changed it01", "Reviewed (mine)"):
            own.save_view(name, own.limit(2))
dataset = fo.load_dataset("forgetting")
print("READ" + json.dumps({
    "fields": list(dataset.get_field_schema()), "views": dataset.list_saved_views(),
    "complete": [entry["complete"] for entry in dataset.info["iterations"].values()],
    "current": dataset.match({"path": {"$regex": "04.png"}}).values("current.label"),
}))
"""


def test_old_iterations_are_thinned_out_and_can_be_recorded_again(
    reporter: FiftyOneReporter, files: list[Path], tmp_path: Path
) -> None:
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        make_table(files, number).to_parquet(folder / "table.parquet")
        (folder / "facts.json").write_text(json.dumps(iteration_facts(make_summary(files, number))))
    told = read_apart(reporter, FORGET, str(tmp_path))
    assert {"pred_it00", "label_it00", "eval_it00", "quality_it01"} <= set(told["fields"])
    assert not {"quality_it00", "slices_it00"} & set(told["fields"])
    assert told["views"]
    own = ["to_discuss_it01", "Changed it01 own 1", "Reviewed (mine)"]
    assert sorted(told["views"][:3]) == sorted(own), "what people made themselves stays, and stands first"
    assert all("_it01" in name for name in told["views"][3:] if name != "reviewed")
    assert told["complete"] == [True, True]
    assert told["current"] == [make_table(files, 1)["current"][4]], "an old iteration must not turn labels back"


def test_database_that_is_gone_is_told_in_one_sentence(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300")
    with pytest.raises(DatabaseError, match=r"FiftyOne did not take the iteration .*curate review") as caught:
        FiftyOneReporter(tmp_path, "p", "0123").record(make_summary(files, 1), make_table(files, 1))
    assert "\n" not in str(caught.value)
    assert FiftyOneReporter(tmp_path, "p", "0123").recorded() == frozenset()


def test_it_is_known_which_iterations_the_database_holds(reporter: FiftyOneReporter, tmp_path: Path) -> None:
    assert reporter.recorded() == {0, 1}
    assert FiftyOneReporter(reporter.mongo.home, "another project", "0123").recorded() == frozenset()
    assert FiftyOneReporter(tmp_path, PROJECT, "fedcba9876543210").recorded() == frozenset()


def test_two_projects_do_not_see_each_other(reporter: FiftyOneReporter, tmp_path: Path) -> None:
    from pymongo import MongoClient

    from reports.mongo import Mongo

    other = Mongo(tmp_path)
    try:
        client: MongoClient[Any]
        with MongoClient(other.start()) as client:
            assert client["fiftyone"]["datasets"].count_documents({}) == 0
    finally:
        other.stop()


CUT_SHORT = """
import os, sys
import reports.fiftyone_recording as recording
recording.evaluate = lambda *_: os.kill(os.getpid(), 9)
recording.main(["record", "--dataset", sys.argv[1], "--input", sys.argv[2], "--lock", sys.argv[2] + "/lock"])
"""


def test_recording_that_was_killed_in_the_middle_is_seen_and_made_good(
    reporter: FiftyOneReporter, files: list[Path], tmp_path: Path
) -> None:
    from pymongo import MongoClient

    half = FiftyOneReporter(reporter.mongo.home, "half", "0123")
    make_table(files, 1).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "facts.json").write_text(json.dumps(iteration_facts(make_summary(files, 1))))
    command = [sys.executable, "-c", CUT_SHORT, half.open_dataset_name(), str(tmp_path)]
    assert subprocess.run(command, env=environment(reporter.mongo.start())).returncode == -9

    def info() -> Any:
        client: MongoClient[Any]
        with MongoClient(reporter.mongo.start()) as client:
            return client["fiftyone"]["datasets"].find_one({"name": half.open_dataset_name()})["info"]

    assert half.recorded() == frozenset()
    assert complete_iterations(info()) == []
    told = half.record(make_summary(files, 1), make_table(files, 1))
    assert (told["added"], half.recorded()) == (0, {1})
    assert [entry["number"] for entry in complete_iterations(info())] == [1]


@pytest.fixture(scope="module")
def app(reporter: FiftyOneReporter, project: Project, label_studio: LabelStudioServer) -> Iterator[ReviewApp]:
    """Ann's App, in an environment that names a Label Studio."""
    home, dataset = reporter.mongo.home, reporter.open_dataset_name()
    started = ReviewApp(home, dataset, project=project.root, reviewer="Ann")
    connection = label_studio.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LABEL_STUDIO_URL", connection.url)
            patch.setenv("LABEL_STUDIO_API_KEY", connection.token)
            started.begin()
        started.start()
        yield started
    finally:
        started.stop()


#: What the App's own router throws where it is asked for its address while it turns to another one; it goes on.
BETWEEN_ADDRESSES = "entry is loading"


def open_app(browser: Browser, address: str, width: int = 1366, height: int = 768) -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": height})
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)) if str(error) != BETWEEN_ADDRESSES else None)
    page.on("requestfailed", lambda request: said.append(request.url) if FONTS not in request.url else None)
    page.goto(address, wait_until="commit")  # the page keeps a stream open, so it never falls silent
    page.wait_for_selector("canvas, [data-cy=looker]", timeout=60_000)
    assert page.get_by_text("Accelerate your workflow").count() == 0, "an advertisement covers the panel"
    return page, said


def test_address_of_a_saved_view_opens_its_images(browser: Browser, app: ReviewApp, artifacts: Path) -> None:
    page, said = open_app(browser, app.url("issues_it01"))
    page.get_by_text("3 samples", exact=True).wait_for(timeout=30_000)
    page.get_by_role("button", name="Labels that look wrong, worst first (3)").wait_for(timeout=60_000)
    tiles = page.locator("[data-cy=looker]")
    tiles.nth(2).wait_for(timeout=30_000)
    assert tiles.count() == 3
    page.screenshot(path=artifacts / "app-issues.png")
    assert said == []
    page.close()


RECORD = """
import json, sys
from pathlib import Path
import fiftyone as fo
import reports.fiftyone_recording as recording
for number in (0, 1):
    recording.record("every-view", Path(sys.argv[1]) / str(number))
dataset = fo.load_dataset("every-view")
results = dataset.load_evaluation_results("eval_it01")
print("READ" + json.dumps({
    "points": {name: dataset.load_brain_results(name).points.tolist() for name in dataset.list_brain_runs()},
    "macro": {told["key"]: told["value"] for told in results.custom_metrics.values()},
    "quality": dataset.sort_by("path").values("quality_it01")[:2],
}))
"""


@pytest.fixture(scope="module")
def every_view(reporter: FiftyOneReporter, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dataset with something in every saved view; what FiftyOne itself reads of it."""
    root = tmp_path_factory.mktemp("every-view")
    for number in (0, 1):
        (folder := root / str(number)).mkdir()
        make_every_view_table(files, number).to_parquet(folder / "table.parquet")
        (folder / "facts.json").write_text(json.dumps(iteration_facts(make_summary(files, number))))
    return read_apart(reporter, RECORD, str(root))


def test_points_and_figures_of_classes_are_recorded(every_view: dict[str, Any]) -> None:
    assert sorted(every_view["points"]) == ["pictures", "pictures_umap"]
    assert sorted(every_view["points"]["pictures_umap"]) == sorted([float(n % 7), float(n % 5)] for n in range(24))
    # Of the labels 0, 1, 2 of iteration 1 there are 8, 7 and 8; wrong are 3 / 1, 10 / 2, 5, 4, 11 and right the rest.
    assert every_view["macro"]["balanced_accuracy"] == pytest.approx((7 / 8 + 5 / 7 + 4 / 8) / 3)
    assert every_view["quality"] == [0.01, 1.0], "a quality of 0 would be shown as if nothing were known"


def shown_paths(page: Page) -> list[list[int]]:
    """The pictures of each grid that the App loads from now on, by number; the last is what is on the screen."""
    shown: list[list[int]] = []

    def look(response: Any) -> None:
        if response.url.endswith("/graphql") and "paginateSamples" in (response.request.post_data or ""):
            edges = ((response.json().get("data") or {}).get("samples") or {}).get("edges") or []
            shown.append([int(edge["node"]["sample"]["path"][-6:-4]) for edge in edges])

    page.on("response", look)
    return shown


def test_every_saved_view_opens_and_holds_its_images_in_order(
    browser: Browser, app: ReviewApp, every_view: Any, artifacts: Path
) -> None:
    page, said = open_app(browser, app_url(app.address, app.port, "every-view"))
    first = page.get_by_role("button", name="Labels that look wrong, worst first (3)")
    first.wait_for(timeout=60_000)
    buttons = page.get_by_role("button").filter(has_text=re.compile(r"\(\d+\)$")).all_inner_texts()
    assert len(buttons) == len(EVERY_VIEW)
    shown = shown_paths(page)
    for words, (name, numbers) in zip(buttons, EVERY_VIEW.items(), strict=True):
        assert words.endswith(f"({len(numbers)})"), f"{name}: {words}"
        page.get_by_role("button", name=words, exact=True).click()
        count = f"{len(numbers)} sample{'s' if len(numbers) > 1 else ''}"
        page.get_by_text(count, exact=True).wait_for(timeout=30_000)
        for _ in range(300):
            if shown[-1:] == [numbers] and f"view={name.replace('_', '-')}" in page.url:
                break
            page.wait_for_timeout(100)
        assert shown[-1] == numbers, name
        assert f"view={name.replace('_', '-')}" in page.url
    page.screenshot(path=artifacts / "app-duplicates-1366x768.png")
    page.locator("[data-cy=saved-views-selection-container], [data-cy=saved-views-selection]").first.click()
    page.get_by_text("issues_it00", exact=True).click()
    page.get_by_text("3 samples", exact=True).wait_for(timeout=30_000)
    assert "view=issues-it00" in page.url
    assert said == []
    page.close()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_panel_tells_the_iterations_and_its_button_opens_the_view(
    browser: Browser, app: ReviewApp, artifacts: Path, width: int, height: int
) -> None:
    page, said = open_app(browser, app.url(), width, height)
    page.get_by_role("button", name="Labels that look wrong, worst first (3)").wait_for(timeout=60_000)
    panel = page.locator("[data-cy=panel-content-curation_panel], #panel-content-curation_panel").first
    words = (panel if panel.count() else page.locator("body")).inner_text()
    assert f"Iteration 1 of {PROJECT}" in words
    assert "75.0 % (70.0 to 80.0 %)" in words
    assert "77.0 % (72.0 to 82.0 %)" in words
    table = page.locator("table").first
    box = table.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= width, "the table must fit into the panel"
    page.locator("[data-cy=looker]").first.wait_for(timeout=30_000)
    page.screenshot(path=artifacts / f"app-panel-{width}x{height}.png")
    page.get_by_role("button", name="Labels that people changed (1)").click()
    page.get_by_text("1 sample", exact=True).wait_for(timeout=30_000)
    page.get_by_role("button", name="All images").click()
    page.get_by_text("24 samples", exact=True).wait_for(timeout=30_000)
    assert said == []
    page.close()


def test_two_iterations_are_compared_in_the_evaluation_panel(browser: Browser, app: ReviewApp, artifacts: Path) -> None:
    page, said = open_app(browser, app.url())
    page.get_by_text("What to look at, in this order").wait_for(timeout=60_000)
    page.locator("[data-cy=new-panel-btn]").last.click()
    page.locator("[data-cy^=new-panel-option-model]").first.click()
    page.get_by_text("4 Model Evaluations").wait_for(timeout=60_000)  # the sidebar has a field of that name too
    page.get_by_text("holdout_it01").last.click(timeout=60_000)
    page.get_by_text("Select a comparison").click(timeout=60_000)
    page.get_by_text("holdout_it00").last.click()
    accuracies = re.compile(r"Accuracy\D*0\.8\D*0\.75")  # of four in five holdout images, and of three in four
    page.get_by_role("row").filter(has_text=accuracies).first.wait_for(timeout=60_000)
    page.get_by_text("Balanced accuracy").scroll_into_view_if_needed(timeout=10_000)
    page.get_by_text("Macro F1-score").wait_for(timeout=10_000)
    page.screenshot(path=artifacts / "app-compared-1366x768.png")
    assert said == []
    page.close()


def tick(page: Page, count: int) -> None:
    """Select the first images, as a person does: at their upper left corner, again where the grid was not ready yet."""
    from playwright.sync_api import TimeoutError as NotYet

    page.locator("[data-cy=looker]").nth(count - 1).wait_for(timeout=30_000)
    for place in range(count):
        selected = page.get_by_text(f"{place + 1} image{'s' if place else ''} selected")
        for seconds in (10, 20, 30):
            box = page.locator("[data-cy=looker]").nth(place).bounding_box()
            assert box is not None
            page.mouse.move(box["x"] + 40, box["y"] + 40)
            page.mouse.click(box["x"] + 12, box["y"] + 12)
            with suppress(NotYet):
                selected.wait_for(timeout=seconds * 1000)
                break
    selected.wait_for(timeout=1000)


def history(project: Project, who: str) -> list[tuple[str, str]]:
    """What ``curate history`` tells of a person: what, and of which image."""
    command = [sys.executable, "-c", "from curation.cli import main; main()", "history", str(project.root), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [(row["what"], row["path"][-6:-4]) for row in told if row["who"] == who]


def test_verdict_on_a_selection_arrives_in_the_ledger_and_in_the_next_view_and_is_taken_back(
    browser: Browser, app: ReviewApp, project: Project, artifacts: Path
) -> None:
    page, said = open_app(browser, app.url("issues_it01"))
    page.get_by_text("3 samples", exact=True).wait_for(timeout=60_000)
    before = project.labels().set_index("path")["label"]
    tick(page, 2)
    page.screenshot(path=artifacts / "app-selected-1366x768.png")
    page.get_by_role("button", name="Suggestion is right").click()
    page.get_by_text("1 sample", exact=True).wait_for(timeout=60_000)
    told = history(project, "Ann")
    assert [what for what, _ in told] == ["verdict", "verdict", "decision", "decision"]
    assert sorted(image for _, image in told) == ["01", "01", "02", "02"]
    after = project.labels().set_index("path")["label"]
    assert sorted(path[-6:-4] for path in after.index[after.ne(before) & after.notna()]) == ["01", "02"]
    page.get_by_role("button", name="What reviewers judged, last first (2)").click()
    page.get_by_text("2 samples", exact=True).wait_for(timeout=30_000)
    page.screenshot(path=artifacts / "app-reviewed-1366x768.png")
    page.get_by_role("button", name="Take back the last 2").click()
    page.get_by_text("0 samples", exact=True).wait_for(timeout=60_000)
    assert project.labels().set_index("path")["label"].equals(before)
    assert [what for what, _ in history(project, "Ann")[4:]] == ["verdict", "verdict", "undo", "undo"]
    assert said == []
    page.close()


def test_cause_of_an_error_is_noted_counted_and_offered_again(
    browser: Browser, app: ReviewApp, project: Project, artifacts: Path
) -> None:
    page, said = open_app(browser, app.url("holdout_errors_it01"))
    page.get_by_text("1 sample", exact=True).wait_for(timeout=60_000)
    tick(page, 1)
    page.get_by_role("button", name="Why it errs…").click()
    cause = page.get_by_role("combobox").last
    cause.fill("glare of the lamp")
    cause.press("Enter")
    page.screenshot(path=artifacts / "app-cause-1366x768.png")
    page.get_by_role("button", name="Execute").click()
    page.get_by_text("Noted on 1 image(s)").wait_for(timeout=30_000)
    assert [(row.cause, row.images) for row in project.causes().itertuples()] == [("glare of the lamp", 1)]
    assert project.causes_offered()[0] == "glare of the lamp"
    assert said == []
    page.close()


def test_selection_sent_to_label_studio_is_there_as_tasks(
    browser: Browser, app: ReviewApp, project: Project, label_studio: LabelStudioServer
) -> None:
    page, said = open_app(browser, app.url("issues_it01"))
    page.get_by_text("3 samples", exact=True).wait_for(timeout=60_000)
    tick(page, 2)
    page.get_by_role("button", name="Ask labelers").click()
    page.get_by_text("2 for labelers, in Label Studio now").wait_for(timeout=120_000)
    keys = {entry.key for entry in project.ledger.queue(1)}
    connection = label_studio.start()
    with token_client(connection.url, connection.token) as client:
        projects = client.get("/api/projects/", params={"page_size": 100}).raise_for_status().json()["results"]
        mark = f"[{project.ledger.about()['id']}/blind]"
        [number] = [p["id"] for p in projects if mark in (p["description"] or "")]
        tasks = client.get("/api/tasks/", params={"project": number, "fields": "all"}).raise_for_status().json()
    assert {task["data"]["key"] for task in tasks["tasks"]} == keys
    assert len(keys) == 2
    assert said == []
    page.close()
