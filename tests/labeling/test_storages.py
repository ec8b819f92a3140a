"""Images in a storage: their addresses, and what keeps labelers from seeing them, by a web server of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests_web import Web, web_server

from curation.config import ReviewSettings
from curation.errors import ConfigError, LabelStudioError
from labeling.storages import check_resolved, check_storage, check_web_images, hidden_because, image_address

SERVER = "http://labels:8080"
ODD = "cats & dogs/ä #1%?.png"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    file = tmp_path / "photos" / ODD
    file.parent.mkdir(parents=True)
    file.write_bytes(b"an image")
    with web_server(tmp_path / "photos") as opened:
        yield opened


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ("https://host/{path}", "https://host/cats%20%26%20dogs/%C3%A4%20%231%25%3F.png"),
        ("https://host/get?of={path}&v=1", "https://host/get?of=cats%20%26%20dogs/%C3%A4%20%231%25%3F.png&v=1"),
        ("https://host/{id}.png", "https://host/abc.png"),
        ("s3://bucket/in/{path}", f"s3://bucket/in/{ODD}"),
        ("gs://bucket/{path}", f"gs://bucket/{ODD}"),
        ("azure-blob://container/{path}", f"azure-blob://container/{ODD}"),
    ],
)
def test_an_address_is_made_by_the_template_and_encoded_for_the_web_alone(template: str, address: str) -> None:
    ReviewSettings(images_url=template)
    assert image_address(template, ODD, "abc") == address


@pytest.mark.parametrize("path", ["/elsewhere/1.png", "../1.png", "a/../../1.png"])
def test_a_path_that_leads_out_of_the_folder_makes_no_address(path: str) -> None:
    with pytest.raises(ConfigError, match=r"review\.images_url puts paths into addresses, but"):
        image_address("https://host/{path}", path, "abc")
    assert image_address("https://host/{id}", path, "abc") == "https://host/abc"


@pytest.mark.parametrize(
    "template",
    ["photos/{path}", "https://host/photos", "https://host/{name}", "ftp://host/{path}", "https://me:pw@host/{path}",
     "file:///{path}", "javascript://host/{path}"],
)  # fmt: skip
def test_a_template_that_serves_no_image_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"review\.images_url"):
        ReviewSettings(images_url=template)


def test_an_image_that_labelers_would_see_is_fetched_once_and_passed(web: Web) -> None:
    check_web_images({image_address(f"{web.url}/{{path}}", ODD, ""): web.folder / ODD}, SERVER)
    assert web.origins == [SERVER]


@pytest.mark.parametrize("server", ["https://Tools.example.org/label-studio", "https://tools.example.org:443"])
def test_a_page_is_named_by_its_origin_as_browsers_do(web: Web, server: str) -> None:
    headers = {"Access-Control-Allow-Origin": "https://tools.example.org"}
    assert hidden_because(200, headers, server) == ""
    assert "must allow pages of http://tools to show it" in hidden_because(200, headers, "http://tools:80/label-studio")
    web.allowed = "http://tools"
    check_web_images({image_address(f"{web.url}/{{path}}", ODD, ""): web.folder / ODD}, "http://tools:80/label-studio")
    assert web.origins == ["http://tools"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"status": 403}, "its server answers with status 403"),
        ({"allowed": None}, f"must allow pages of {SERVER} to show it, by the header Access-Control-Allow-Origin"),
        ({"allowed": "http://other"}, "must allow pages of"),
        ({"content": b"a page that says sign in"}, "what is there differs from"),
    ],
)
def test_an_image_that_labelers_would_not_see_is_told_with_the_reason(
    web: Web, change: dict[str, Any], complaint: str
) -> None:
    for name, value in change.items():
        setattr(web, name, value)
    address = image_address(f"{web.url}/{{path}}", ODD, "")
    with pytest.raises(LabelStudioError, match="labelers would not see the image") as told:
        check_web_images({address: web.folder / ODD}, SERVER)
    assert complaint in str(told.value)
    assert address in str(told.value)


def test_a_server_that_is_not_there_and_a_plain_one_behind_tls_are_told(web: Web) -> None:
    with pytest.raises(LabelStudioError, match="can't be reached"):
        check_web_images({"http://127.0.0.1:9/1.png": web.folder / ODD}, SERVER)
    with pytest.raises(LabelStudioError, match="browsers block http images on an https page"):
        check_web_images({f"{web.url}/1.png": web.folder / ODD}, "https://labels")
    assert web.origins == []


def storage_of(**named: str) -> Any:
    listed = SimpleNamespace(list=lambda project: [SimpleNamespace(**named)] if named else [])
    return SimpleNamespace(import_storage=SimpleNamespace(s3=listed, gcs=listed, azure=listed))


@pytest.mark.parametrize(("address", "named"), [("s3://b/1.png", {"bucket": "b"}), ("gs://b/1.png", {"bucket": "b"}),
                                                ("azure-blob://b/1.png", {"container": "b"})])  # fmt: skip
def test_a_cloud_storage_must_be_known_to_label_studio(address: str, named: dict[str, str]) -> None:
    project = SimpleNamespace(id=3, title="Parts · check")
    check_storage(storage_of(**named), project, address)
    for sdk in (storage_of(), storage_of(bucket="another")):
        with pytest.raises(LabelStudioError, match=r"can't read .*://b: its project 'Parts · check' \(number 3\)"):
            check_storage(sdk, project, address)


def test_what_label_studio_hands_on_must_be_the_image(tmp_path: Path) -> None:
    file = tmp_path / "1.png"
    file.write_bytes(b"an image")
    answers = {"/api/tasks/7/": '{"data": {"image": "/tasks/7/resolve/"}}', "/tasks/7/resolve/": "an image"}
    handler = httpx.MockTransport(lambda r: httpx.Response(200 if r.url.path in answers else 404,
                                                           text=answers.get(r.url.path, "")))  # fmt: skip
    with httpx.Client(base_url=SERVER, transport=handler) as client:
        check_resolved(client, 7, "s3://b/1.png", file)
        answers["/tasks/7/resolve/"] = "no such key"
        with pytest.raises(LabelStudioError, match="what is there differs from"):
            check_resolved(client, 7, "s3://b/1.png", file)
        del answers["/tasks/7/resolve/"]
        with pytest.raises(LabelStudioError, match="it comes with status 404"):
            check_resolved(client, 7, "s3://b/1.png", file)
        answers["/api/tasks/7/"] = '{"data": {"image": "s3://b/1.png"}}'
        with pytest.raises(LabelStudioError, match="does not take it for an address of its storage"):
            check_resolved(client, 7, "s3://b/1.png", file)
