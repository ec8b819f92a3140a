"""What tests of labeling share: a project in a real Label Studio, and a labeler's hands in the browser."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import TimeoutError as NotYet

from curation.ledger import Ledger, NewPath, NewSample
from curation.records import Mode, QueueEntry
from labeling.client import LabelStudioAnnotator
from labeling.server import Connection
from labeling.web import token_client
from tests.contracts.test_annotators import CLASSES, entry
from tests.e2e.conftest import PASSWORD

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Where the screen names the task.
NUMBER = ".lsf-current-task__task-id"
GUIDE = {"c1": "Fur, four legs, a tail; sits on chairs.", "c2": "Red fur, pointed ears, a thick tail; never on chairs."}


def annotator(connection: Connection, project_id: str, **changes: Any) -> LabelStudioAnnotator:
    names = {"ann@example.com": "ann", "bob@example.com": "bob"}
    given = {"classes": CLASSES, "opinions": 2, "guide": GUIDE, "person_names": names} | changes
    return LabelStudioAnnotator(connection, project_name="House & garden", project_id=project_id, **given)


def tasks(connection: Connection, project_id: str) -> dict[str, list[dict[str, Any]]]:
    """The tasks as Label Studio has them, by stream, in served order."""
    found: dict[str, list[dict[str, Any]]] = {}
    with token_client(connection.url, connection.token) as client:
        for project in client.get("/api/projects/", params={"page_size": 1000}).json()["results"]:
            mark = re.search(rf"\[{project_id}/(\w+)\]", project["description"] or "")
            if mark:
                asked = {"project": project["id"], "page_size": 1000, "fields": "all"}
                found[mark[1]] = sorted(client.get("/api/tasks/", params=asked).json()["tasks"], key=lambda t: t["id"])
    return found


def batch_of(count: int, modes: tuple[Mode, ...] = ("shown", "blind", "control")) -> list[QueueEntry]:
    return [entry(uuid.uuid4().hex, modes[i % len(modes)], i, opinions=2) for i in range(count)]


def ledger_of(batch: list[QueueEntry], file: Path) -> Ledger:
    """A ledger with the samples of a batch, and the batch in its queue."""
    ledger = Ledger.in_file(file)
    ledger.add_classes(CLASSES.names, who="import")
    ledger.add_samples(
        [NewSample(e.sample_id, "train", None, 12, 12) for e in batch],
        [NewPath(e.sample_id, f"{e.position}.png", "", None, {}) for e in batch],
        {e.sample_id: "c1" for e in batch}, who="import", why="label as given",
    )  # fmt: skip
    ledger.add_queue(batch)
    return ledger


def signed_in(browser: Browser, connection: Connection, person: str) -> Page:
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.goto(f"{connection.url}/user/login/")
    page.fill("[name=email]", f"{person}@example.com")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "login" not in url)
    return page


def open_stream(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(".ct .lsf-choice", timeout=60_000)
    page.wait_for_function("() => { const i = document.querySelector('.ct-image canvas'); return i && i.width > 100 }")
    page.wait_for_timeout(300)


def wait_for_pictures(page: Page) -> None:
    """Wait until the examples and the near images have come."""
    pictures = "[...document.querySelectorAll('.ct-example, .ct-neighbour')]"
    page.wait_for_function(f"() => {pictures}.length && {pictures}.every((e) => e.complete && e.naturalWidth)")


def press(page: Page, key: str) -> None:
    """Answer the task on the screen by keyboard alone, and wait until Label Studio has taken it."""
    number = page.inner_text(NUMBER)
    for _ in range(5):  # a key that comes before the task is ready is lost, as it would be for a person
        page.keyboard.press(key)
        with suppress(NotYet):
            page.wait_for_selector(".ct .ant-radio-checked", state="attached", timeout=2_000)
            break
    with page.expect_response(lambda r: "/annotations" in r.url and r.request.method == "POST") as taken:
        page.keyboard.press("Enter")
    assert taken.value.status == 201
    page.wait_for_function(f"(n) => (document.querySelector('{NUMBER}')?.innerText ?? '') !== n", arg=number)


def layout(page: Page) -> dict[str, Any]:
    """What of the screen is seen without scrolling, in pixels."""
    found: dict[str, Any] = page.evaluate(
        """() => {
          const box = (e) => e.getBoundingClientRect();
          const answers = [...document.querySelectorAll('.ct .lsf-choice')].map(box);
          const list = document.querySelector('.ct .lsf-choices'), holder = document.querySelector('.ct-answers');
          const page = document.documentElement, entries = [...document.querySelectorAll('.ct-entry')].map(box);
          const panels = [...document.querySelectorAll('.lsf-sidepanels__wrapper')];
          const pictures = [...document.querySelectorAll('.ct-neighbour, .ct-example')].filter((e) => e.naturalWidth);
          const image = box(document.querySelector('.ct-image canvas'));
          return {
            scrolls: page.scrollHeight > innerHeight || page.scrollWidth > innerWidth,
            answersHidden: answers.filter((b) => b.bottom > box(holder).bottom + 1).length,
            image: Math.max(image.width, image.height),
            panels: panels.filter((e) => box(e).width > 0).length,
            guide: box(document.querySelector('.ct-guide')).right,
            guideHidden: entries.filter((b) => b.bottom > innerHeight - 50).length,
            pictures: pictures.filter((e) => box(e).bottom < innerHeight).length,
            checked: document.querySelectorAll('.ct .ant-radio-checked').length,
          }
        }"""
    )
    return found
