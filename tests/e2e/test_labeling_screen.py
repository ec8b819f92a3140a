"""What a labeler sees and does in the browser, by keyboard alone; answers end in the ledger as they were given."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from curation.cli import curate
from curation.errors import LabelStudioError
from curation.project import Project
from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, Classes
from labeling.screen import read_texts
from labeling.server import Connection
from labeling.storages import image_address
from tests.contracts.test_annotators import draw
from tests.tests_labeling import (
    GUIDE,
    NUMBER,
    annotator,
    batch_of,
    layout,
    ledger_of,
    open_stream,
    press,
    signed_in,
    tasks,
    wait_for_pictures,
)
from tests.tests_web import web_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e


def test_a_labeler_works_by_keyboard_alone(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, artifacts: Path, tmp_path: Path
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(10, ("shown", "shown", "shown", "blind", "control"))]
    files = draw(tmp_path, batch)
    near = [replace(e, related=(batch[3].sample_id, batch[4].sample_id)) for e in batch[:1]]
    batch = [replace(e, reason=f"{e.reason}, {e.position}") for e in (*near, *batch[1:])]
    ledger = ledger_of(batch, tmp_path / "ledger.db")
    examples = {"c1": (files[batch[8].sample_id],), "c2": (files[batch[9].sample_id],)}
    labels = {batch[3].sample_id: "c1", batch[4].sample_id: "c2"}
    asked = annotator(connection, project_id, opinions=1, examples=examples, labels=labels)
    asked.send(batch, files)
    addresses = asked.addresses()
    page = signed_in(browser, connection, "bob")

    open_stream(page, addresses["shown"])
    page.wait_for_selector(".ct-progress")
    wait_for_pictures(page)
    seen = layout(page)
    assert seen == seen | {
        "scrolls": False,
        "answersHidden": 0,
        "guideHidden": 0,
        "panels": 0,
        "checked": 0,
        "pictures": 4,
    }
    assert seen["image"] > 500
    assert seen["guide"] <= 1366
    words = page.inner_text(".ct")
    assert all(word in words for word in ("cat & dog", "looks like a fox", GUIDE["c2"], "Nearest 'fox'"))
    assert page.inner_text(".ct-progress").startswith("0 / 6")
    assert page.locator(".ct-progress").count() == 1
    page.screenshot(path=artifacts / "labeling-shown-2-classes.png")
    page.keyboard.press("ArrowUp")
    light = page.evaluate("() => document.querySelector('.ct-image canvas').style.filter")
    assert light == "brightness(1.25) contrast(1)"
    plain = page.locator(".ct-image").screenshot()
    page.keyboard.press("+")
    page.wait_for_timeout(500)
    larger = page.locator(".ct-image").screenshot()
    page.keyboard.press("-")
    page.wait_for_timeout(500)
    assert larger not in (plain, page.locator(".ct-image").screenshot())
    began = time.monotonic()
    for key in ("1", "2", "a", "x", "1"):
        press(page, key)
    print(f"{(time.monotonic() - began) / 5:.2f} s from answer to answer")
    page.wait_for_function("() => document.querySelector('.ct-progress')?.innerText.startsWith('5 / 6')")
    number = page.inner_text(NUMBER)
    page.keyboard.press("Backspace")  # the last answer was a mistake
    page.wait_for_function(f"(n) => (document.querySelector('{NUMBER}')?.innerText ?? '') !== n", arg=number)
    page.wait_for_selector(".ct .ant-radio-checked", state="attached")
    asked.collect(batch)
    ledger.add_verdicts(asked.collect(batch))
    page.keyboard.press("2")
    with page.expect_response(lambda r: "/annotations/" in r.url and r.request.method == "PATCH"):
        page.keyboard.press("Enter")
    open_stream(page, addresses["shown"])
    press(page, "1")

    open_stream(page, addresses["blind"])
    words = page.inner_text("body")
    assert not [word for word in ("looks like a fox", "Suggested", "Label now", "Nearest") if word in words]
    page.screenshot(path=artifacts / "labeling-blind-2-classes.png")
    for key in ("2", "2", "1", "1"):
        press(page, key)
    page.close()

    ledger.add_verdicts(asked.collect(batch, ledger.verdicts()))
    found = ledger.verdicts()
    reasons = {e.key: e.reason for e in ledger.queue()}
    assert len(found) == 10
    shown = sorted((v for v in found if v.mode == "shown"), key=lambda v: reasons[v.key])
    assert [v.answer for v in shown] == ["c1", "c2", AMBIGUOUS, BAD_IMAGE, "c2", "c1"]
    assert [reasons[v.key] for v in shown] == [f"looks like a fox, {n}" for n in (0, 1, 2, 5, 6, 7)]
    assert sorted(v.mode for v in found if v.mode != "shown") == ["blind", "blind", "control", "control"]
    assert {v.person for v in found} == {"bob"}
    assert all(v.seconds is not None and 0 < v.seconds < 120 for v in found)
    changed = [v for v in ledger.verdicts(every=True) if v.source == shown[4].source]
    assert [v.answer for v in changed] == ["c1", "c2"]
    assert asked.waiting(batch) == 0
    ledger.close()


@pytest.mark.parametrize(("count", "hidden"), [(10, False), (40, False), (200, True)])
def test_the_screen_bears_many_classes(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, artifacts: Path, tmp_path: Path,
    count: int, hidden: bool,
) -> None:  # fmt: skip
    classes = Classes(
        tuple(f"c{i}" for i in range(1, count + 1)), tuple(f"kind of thing {i}" for i in range(1, count + 1))
    )
    reason = "Predictions that have not seen this label give 'kind of thing 2' 94 %; four of its five neighbours agree."
    batch = [replace(e, reason=reason) for e in batch_of(6, ("shown",))]
    files = draw(tmp_path, batch)
    beside = [e.sample_id for e in batch[2:]]
    batch = [replace(e, related=tuple(beside)) for e in batch[:2]]
    labels = dict(zip(beside, ("c1", "c1", "c2", "c2"), strict=True))
    guide = {class_id: f"What {name} means, in a sentence." for class_id, name in list(classes)}
    examples = {class_id: tuple(files[s] for s in beside[:2]) for class_id, _ in list(classes)}
    asked = annotator(connection, project_id, classes=classes, guide=guide, labels=labels, examples=examples)
    asked.send(batch, files)
    page = signed_in(browser, connection, "bob")
    open_stream(page, asked.addresses()["shown"])
    page.wait_for_selector(".ct-progress")
    wait_for_pictures(page)
    seen = layout(page)
    page.screenshot(path=artifacts / f"labeling-shown-{count}-classes.png")
    page.set_viewport_size({"width": 1920, "height": 1080})
    open_stream(page, asked.addresses()["shown"])
    large = layout(page)
    page.screenshot(path=artifacts / f"labeling-shown-{count}-classes-1920.png")
    page.set_viewport_size({"width": 1366, "height": 768})
    assert large == large | {"scrolls": False, "panels": 0, "checked": 0}
    assert large["image"] > 800
    assert seen == seen | {"scrolls": False, "panels": 0, "checked": 0}
    assert (seen["guideHidden"] > 0) == hidden
    assert (seen["answersHidden"] > 0) == hidden
    assert seen["pictures"] >= (4 if hidden else 10)
    assert seen["image"] > 500
    if hidden:
        page.keyboard.press("Shift+F")
        page.keyboard.type("thing 187")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.ct .lsf-choice')].filter((e) => e.offsetHeight).length < 5"
        )
        page.keyboard.press("Enter")
        page.wait_for_selector(".ct .ant-radio-checked", state="attached")
        page.keyboard.press("Enter")
        page.wait_for_function("() => !document.querySelector('.ct .ant-radio-checked')", timeout=20_000)
    else:
        press(page, "0")
    page.close()
    (verdict,) = asked.collect(batch)
    assert verdict.answer == ("c187" if hidden else "c10")


#: A phone, a page of 1280 px enlarged twice, tablets either way up, a small window.
SIZES = ((390, 844), (640, 400), (768, 1024), (820, 1180), (1024, 768), (1280, 800))


@pytest.mark.parametrize("count", [2, 40])
def test_image_and_answers_are_seen_on_screens_of_every_width(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, artifacts: Path, tmp_path: Path,
    count: int,
) -> None:  # fmt: skip
    classes = Classes(
        tuple(f"c{i}" for i in range(1, count + 1)), tuple(f"kind of thing {i}" for i in range(1, count + 1))
    )
    batch = [replace(e, opinions=1) for e in batch_of(4, ("shown",))]
    files = draw(tmp_path, batch)
    labels = {batch[2].sample_id: "c1", batch[3].sample_id: "c2"}
    batch = [replace(e, related=tuple(labels)) for e in batch[:2]]
    guide = {class_id: f"What {name} means, in a sentence." for class_id, name in list(classes)}
    asked = annotator(connection, project_id, classes=classes, guide=guide, labels=labels, opinions=1)
    asked.send(batch, files)
    page = signed_in(browser, connection, "bob")
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        open_stream(page, asked.addresses()["shown"])
        page.wait_for_selector(".ct-progress")
        wait_for_pictures(page)
        page.screenshot(path=artifacts / f"labeling-{count}-classes-{width}.png")
        seen = layout(page)
        assert not seen["scrolls"], width
        assert seen["image"] >= min(0.38 * width, 0.45 * height), width
        send = page.locator('[aria-label="Submit current annotation"]').bounding_box()
        image = page.locator(".ct-image canvas").first.bounding_box()
        assert send is not None
        assert image is not None
        assert send["x"] + send["width"] <= width
        assert 0 <= image["x"] < image["x"] + image["width"] <= width
        assert 0 <= image["y"] < image["y"] + image["height"] <= send["y"]
        last, beside = (page.locator(name).bounding_box() for name in (".ct-answers", ".ct-guide"))
        assert last is not None
        assert beside is not None
        assert beside["x"] >= last["x"] + last["width"] or beside["y"] >= last["y"] + last["height"], (
            "not one on the other"
        )
        answer = page.locator(".ct .lsf-choice").nth(count + 2)
        answer.scroll_into_view_if_needed()
        box = answer.bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= send["y"]
        if width == 390:
            press(page, "1")
    press(page, "2")
    page.close()
    assert [v.answer for v in asked.collect(batch)] == ["c1", "c2"]


def test_an_image_that_is_left_for_later_comes_again(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, tmp_path: Path
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(2, ("shown",))]
    asked = annotator(connection, project_id, opinions=1)
    asked.send(batch, draw(tmp_path, batch))
    page = signed_in(browser, connection, "bob")
    open_stream(page, asked.addresses()["shown"])
    first = page.inner_text(NUMBER).split()[0]
    page.keyboard.press("PageDown")
    page.wait_for_function(f"(n) => !(document.querySelector('{NUMBER}')?.innerText ?? n).startsWith(n)", arg=first)
    page.wait_for_function("() => document.querySelector('.ct-image canvas')?.width > 100")
    press(page, "2")
    page.wait_for_function(f"(n) => (document.querySelector('{NUMBER}')?.innerText ?? '').startsWith(n)", arg=first)
    press(page, "1")
    page.close()
    assert [(v.key, v.answer) for v in asked.collect(batch)] == [(batch[0].key, "c1"), (batch[1].key, "c2")]


def test_other_is_answered_in_words(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, tmp_path: Path
) -> None:
    batch = batch_of(1, ("blind",))
    asked = annotator(connection, project_id, texts=replace(read_texts(), other="something else, namely"))
    asked.send(batch, draw(tmp_path, batch))
    page = signed_in(browser, connection, "bob")
    open_stream(page, asked.addresses()["blind"])
    assert not page.locator(".ct-other textarea, .ct-other input").is_visible()
    page.keyboard.press("z")
    page.fill(".ct-other textarea, .ct-other input", "a tram")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    with page.expect_response(lambda r: "/annotations" in r.url and r.request.method == "POST"):
        page.keyboard.press("Control+Enter")
    page.close()
    (verdict,) = asked.collect(batch)
    assert (verdict.answer, verdict.note) == (OTHER, "a tram")


def test_names_with_a_dollar_are_shown_as_they_are(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, tmp_path: Path
) -> None:
    names = ("$5", "$10 note", "US$reason")
    texts = replace(read_texts(), ambiguous="$image or more")
    batch = batch_of(1, ("shown",))
    asked = annotator(connection, project_id, classes=Classes(("c1", "c2", "c3"), names), texts=texts, opinions=1)
    asked.send(batch, draw(tmp_path, batch))
    page = signed_in(browser, connection, "bob")
    open_stream(page, asked.addresses()["shown"])
    answers = [words.replace("\u2060", "") for words in page.locator(".ct .lsf-choice").all_inner_texts()]
    assert [a for a in (*names, texts.ambiguous) if not [words for words in answers if words.startswith(a)]] == []
    press(page, "2")
    page.close()
    assert [v.answer for v in asked.collect(batch)] == ["c2"]


def test_somebody_elses_server_shows_images_from_the_web_and_blind_ones_uploaded(
    connection: Connection, tokens: dict[str, str], project_id: str, browser: Browser, tmp_path: Path
) -> None:
    foreign = Connection(connection.url, tokens["ann"])
    batch = batch_of(6)
    files = draw(tmp_path / "photos" / "cats & dogs #1", batch)
    beside = {batch[3].sample_id: "c1", batch[4].sample_id: "c2"}
    batch = [replace(e, related=tuple(beside)) for e in batch]
    with web_server(tmp_path / "photos") as web:
        addresses = {
            file: image_address(f"{web.url}/{{path}}", file.relative_to(web.folder).as_posix(), "")
            for file in files.values()
        }
        asked = annotator(
            foreign, project_id, addresses=addresses, labels=beside, examples={"c1": [*files.values()][:1]}
        )
        web.allowed = None
        with pytest.raises(LabelStudioError, match="labelers would not see the image http"):
            asked.send(batch, files)
        assert tasks(connection, project_id).get("shown", []) == []
        web.allowed = connection.url
        asked.send(batch, files)
        sent = tasks(connection, project_id)
        assert [t["data"]["image"] for t in sent["shown"]] == [
            addresses[files[e.sample_id]] for e in batch if e.mode == "shown"
        ]
        assert all(re.fullmatch(r"/data/upload/\d+/.*[0-9a-f]{24}\.png", t["data"]["image"]) for t in sent["blind"])
        page = signed_in(browser, connection, "bob")
        open_stream(page, asked.addresses()["shown"])
        wait_for_pictures(page)
        assert layout(page)["pictures"] == 3  # one example and two near images, from the web as well
        press(page, "2")
        page.close()
    assert [v.answer for v in asked.collect(batch)] == ["c2"]


def test_somebody_who_was_added_signs_in_by_what_was_sent_and_labels(
    connection: Connection, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [replace(e, opinions=1) for e in batch_of(3)]
    files = draw(tmp_path / "images", [*batch, *batch_of(1)])
    (tmp_path / "labels.csv").write_text(
        "path,label,split\n"
        + "".join(f"{f.name},{('cat', 'fox')[n % 2]},train\n" for n, f in enumerate(files.values()))
    )
    project, _ = Project.create(tmp_path / "parts", tmp_path / "images", tmp_path / "labels.csv")
    batch = [replace(e, sample_id=s.id, iteration=1) for e, s in zip(batch, project.samples(), strict=False)]
    project.ledger.add_queue(batch)
    project.ledger.set_state(1, "waiting")
    monkeypatch.setenv("LABEL_STUDIO_URL", connection.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", connection.token)

    def curate_says(*arguments: str) -> Any:
        done = CliRunner().invoke(curate, [arguments[0], str(project.root), *arguments[1:], "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    email = f"{uuid.uuid4().hex}@example.com"
    sent = curate_says("people", "--add", "Zoë", "--email", email)
    assert (sent["name"], sent["email"], set(sent["streams"])) == ("Zoë", email, {"shown", "blind"})
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(sent["streams"]["shown"])  # nobody is signed in: the form comes first, then the screen
    page.fill("[name=email]", sent["email"])
    page.fill("[name=password]", sent["password"])
    page.keyboard.press("Enter")
    page.wait_for_selector(".ct .lsf-choice", timeout=60_000)
    open_stream(page, sent["streams"]["shown"])
    press(page, "2")
    open_stream(page, sent["streams"]["blind"])
    press(page, "1")
    press(page, "x")
    page.close()
    assert curate_says("sync")["missing"] == 0
    said = {v.key: v for v in project.ledger.verdicts()}
    assert said[batch[0].key].answer == "c2"
    assert sorted(said[e.key].answer for e in batch[1:]) == [BAD_IMAGE, "c1"]
    assert {v.person for v in said.values()} == {"Zoë"}
    assert all(v.seconds is not None and v.seconds > 0 for v in said.values())
    (row,) = curate_says("people", "--quality")
    assert (row["person"], row["answered"], row["note"]) == ("Zoë", 3, "")
    assert sent["password"] not in "".join(f.read_text(errors="ignore") for f in project.root.rglob("*") if f.is_file())
    project.ledger.close()
