"""A team: two labelers and a reviewer come through nginx, set up as ``docs/team.md`` tells."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from curation import Project
from curation.config import Settings
from labeling.client import LabelStudioAnnotator
from labeling.server import Connection, LabelStudioServer, add_person
from reports.app import ReviewApp
from tests.contracts.test_annotators import CLASSES, draw, entry
from tests.e2e.conftest import CHROMIUM, FLAGS, PASSWORD
from tests.reports.cases import PROJECT, make_images, make_summary, make_table
from tests.tests_labeling import open_stream, press, signed_in
from tests.tests_nginx import free_port, nginx

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Team:
    """What nginx serves: Label Studio and the App, each by its public address, and a Label Studio's own one."""

    label: str
    review: str
    behind: Connection
    certificate: Path
    dataset: str  #: where a reviewer begins


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Label Studio and Ann's App on loopback, and nginx before them, as on one host."""
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    label, review = (f"https://{name}.example.org:{port}" for name in ("label", "review"))
    files = make_images(folder / "images")
    table = make_table(files, 0)
    table[["path", "given", "split"]].rename(columns={"given": "label"}).to_csv(folder / "labels.csv", index=False)
    project, _ = Project.create(
        folder / "p", files[0].parent.parent, folder / "labels.csv", settings=Settings(name=PROJECT)
    )
    recorder = project.fiftyone()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CURATION_LABEL_STUDIO_PUBLIC_URL", label)
        environment.setenv("CURATION_APP_HOSTS", "review.example.org")
        server = LabelStudioServer(folder / "label-studio")
        app = None
        try:
            recorder.record(make_summary(files, 0), make_table(files, 0))
            app = ReviewApp(recorder.mongo.home, recorder.open_dataset_name(), project=project.root, reviewer="Ann")
            app.start()
            behind = server.start(timeout=420)
            ports = {"label_studio": int(behind.url.rpartition(":")[2]), "app": app.port}
            with nginx(folder, {"ann": "a fine password"}, port=port, **ports) as certificate:
                yield Team(
                    label, review, behind, certificate, app.url().replace(f"http://127.0.0.1:{app.port}", review)
                )
        finally:
            server.stop()
            if app is not None:
                app.stop()
            recorder.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium that finds both names on this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        here = "--host-resolver-rules=MAP *.example.org 127.0.0.1"
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, here, "--ignore-certificate-errors"]
        )
        yield opened
        opened.close()


def asked(team: Team, address: str, **how: object) -> httpx.Response:
    """A request through nginx, its certificate checked; the name is resolved to this machine."""
    url = httpx.URL(address)
    with httpx.Client(verify=ssl.create_default_context(cafile=str(team.certificate)), timeout=60) as client:
        request = client.build_request(
            str(how.pop("method", "GET")), url.copy_with(host="127.0.0.1"), extensions={"sni_hostname": url.host},
            headers={"Host": url.netloc.decode(), **how.pop("headers", {})},  # type: ignore[dict-item]
        )  # fmt: skip
        return client.send(request, **how)  # type: ignore[arg-type]


def test_two_labelers_sign_in_through_the_proxy_and_their_answers_are_theirs(
    team: Team, browser: Browser, artifacts: Path, tmp_path: Path
) -> None:
    for person in ("ann", "bob"):
        add_person(team.behind, f"{person}@example.com", PASSWORD)
    batch = [entry(uuid.uuid4().hex, "shown", n, opinions=2) for n in range(2)]
    people = {"ann@example.com": "ann", "bob@example.com": "bob"}
    annotator = LabelStudioAnnotator(
        team.behind, project_name="Team", project_id=uuid.uuid4().hex, classes=CLASSES, opinions=2, person_names=people
    )
    annotator.send(batch, draw(tmp_path, batch))
    address = annotator.addresses()["shown"]
    assert address.startswith(team.label), "that is what labelers are sent"
    public = Connection(team.label, team.behind.token)
    for person, key in (("ann", "1"), ("bob", "2")):
        page = signed_in(browser, public, person)
        assert page.url.startswith(team.label), "whoever signs in must stay behind the proxy"
        open_stream(page, address)
        page.screenshot(path=artifacts / f"team-label-{person}.png")
        press(page, key)
        page.close()
    answers = {(v.person, v.answer) for v in annotator.collect(batch)}
    assert answers == {("ann", CLASSES.ids[0]), ("bob", CLASSES.ids[1])}


def test_a_stranger_sees_neither(team: Team) -> None:
    assert asked(team, f"{team.label}/api/projects/").status_code == 401
    assert asked(team, team.review).status_code == 401
    assert asked(team, team.review, auth=("ann", "guessed")).status_code == 401
    assert asked(team, team.review, auth=("ann", "a fine password")).status_code == 200


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ("application/json; charset=bz2_codec", 415),  # 300 bytes of these took 1 GB, before any login
        ('application/json; CharSet = "zlib_codec"', 415),
        ("application/json; charset*=utf-8''bz2_codec", 415),
        ("application/json; charset=utf-8; charset=bz2_codec", 415),
        ("application/json; charset=utf-8", 401),  # Label Studio has read it, and finds no token in it
        ('application/json; charset="UTF-8"', 401),
        ("application/json", 401),
    ],
)
def test_no_body_is_unpacked_by_its_charset(team: Team, told: str, status: int) -> None:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(team.certificate)), timeout=60) as client:
        url = httpx.URL(f"{team.label}/api/token/refresh/")
        answer = client.request(
            "POST", url.copy_with(host="127.0.0.1"), content=b'{"refresh": "none"}',
            headers={"Host": url.netloc.decode(), "Content-Type": told}, extensions={"sni_hostname": url.host},
        )  # fmt: skip
    assert answer.status_code == status, answer.text


def test_a_foreign_page_can_make_nobody_act(team: Team) -> None:
    """A reviewer's browser sends the password along with whatever page asks it to."""
    how = {"method": "POST", "auth": ("ann", "a fine password"), "headers": {"Origin": "https://evil.example"}}
    answer = asked(team, f"{team.review}/graphql", **how)
    assert (answer.status_code, answer.text[:15]) == (403, "a page of evil.")


def test_a_reviewer_opens_the_app_through_the_proxy(team: Team, browser: Browser, artifacts: Path) -> None:
    context = browser.new_context(
        viewport={"width": 1366, "height": 768}, http_credentials={"username": "ann", "password": "a fine password"}
    )
    page = context.new_page()
    refused: list[str] = []
    page.on("response", lambda r: refused.append(f"{r.status} {r.url}") if r.status in (401, 403, 502) else None)
    page.goto(team.dataset, wait_until="commit")
    page.wait_for_selector("[data-cy=looker]", timeout=120_000)
    page.screenshot(path=artifacts / "team-review.png")
    assert refused == []
    context.close()
