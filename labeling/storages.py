"""Images that Label Studio reads from a storage: their addresses by a template, and whether they are really seen there.

With ``http`` and ``https`` the labeler's browser fetches an image from the address itself; with ``s3``, ``gs`` and
``azure-blob`` Label Studio hands it on, from a storage that somebody has made known to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from curation.errors import ConfigError, LabelStudioError
from labeling.web import web_origin

#: Label Studio's name of each kind of storage, by the scheme of its addresses.
KINDS = {"s3": "s3", "gs": "gcs", "azure-blob": "azure"}
_PATIENCE = 30.0


def image_address(template: str, path: str, sample_id: str) -> str:
    """The address of an image: ``{path}`` is its path as given, ``{id}`` its sample id (SHA-256 of its bytes).

    Web addresses are percent-encoded; those of other storages name the object as it is, as Label Studio expects.
    Raises ConfigError where a template with ``{path}`` meets a path that is absolute or leads out of the folder.

    >>> image_address("https://host/{path}", "cats/a #1.png", "")
    'https://host/cats/a%20%231.png'
    >>> image_address("s3://photos/{path}", "cats/a #1.png", "")
    's3://photos/cats/a #1.png'
    """
    path = path.replace("\\", "/").removeprefix("./")
    outside = PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
    if "{path}" in template and outside:
        raise ConfigError(
            f"review.images_url puts paths into addresses, but '{path}' is no path within the folder of images; use "
            "{id} in place of {path}, or give `--images` the folder that all images are in"
        )
    return template.replace("{path}", quote(path) if is_web(template) else path).replace("{id}", sample_id)


def is_web(address: str) -> bool:
    """Whether browsers fetch it themselves."""
    return urlsplit(address).scheme in ("http", "https")


def check_web_images(images: Mapping[str, Path], server: str) -> None:
    """Fetch images (address to file) as a page of the Label Studio at ``server`` would.

    Raises LabelStudioError with the reason for the first one that a labeler would not see, or would see another of.
    """
    if server.startswith("https:") and (plain := [a for a in images if a.startswith("http:")]):
        raise LabelStudioError(_unseen(plain[0], "browsers block http images on an https page; serve them by https"))
    with httpx.Client(timeout=_PATIENCE, follow_redirects=True) as client:
        for address, file in images.items():
            try:
                answer = client.get(address, headers={"Origin": web_origin(server)})
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise LabelStudioError(_unseen(address, f"it can't be reached ({type(error).__name__})")) from None
            if why := hidden_because(answer.status_code, answer.headers, server) or other_file(answer.content, file):
                raise LabelStudioError(_unseen(address, why))


def hidden_because(status: int, headers: Mapping[str, str], server: str) -> str:
    """Why a page of the Label Studio at ``server`` can't show what was answered, or nothing (pure).

    >>> hidden_because(404, {}, "http://ls"), hidden_because(200, {"access-control-allow-origin": "*"}, "http://ls")
    ('its server answers with status 404', '')
    >>> hidden_because(200, {"access-control-allow-origin": "https://tools"}, "https://tools:443/label-studio")
    ''
    """
    page = web_origin(server)
    if status != 200:
        return f"its server answers with status {status}"
    allowed = {name.lower(): value for name, value in headers.items()}.get("access-control-allow-origin", "")
    if allowed not in ("*", page):
        return f"its server must allow pages of {page} to show it, by the header Access-Control-Allow-Origin"
    return ""


def other_file(content: bytes, file: Path) -> str:
    """Says so where ``content`` is not what ``file`` holds."""
    return "" if content == file.read_bytes() else f"what is there differs from {file}"


def check_storage(sdk: Any, project: Any, address: str) -> None:
    """Make sure that a Label Studio project knows the storage of a cloud address.

    ``sdk`` is the client of label_studio_sdk, ``project`` one of its projects. Raises LabelStudioError that says what
    to add where.
    """
    scheme, bucket = urlsplit(address).scheme, urlsplit(address).netloc
    kind = KINDS[scheme]
    known = getattr(sdk.import_storage, kind).list(project=project.id)
    if bucket in {getattr(storage, "bucket", None) or getattr(storage, "container", None) for storage in known}:
        return
    raise LabelStudioError(
        f"Label Studio can't read {scheme}://{bucket}: its project '{project.title}' (number {project.id}) has no such "
        "storage; add it there under Settings, Cloud Storage, Add Source Storage (without syncing), then run the "
        "command again"
    )


def check_resolved(client: httpx.Client, task: int, address: str, file: Path) -> None:
    """Fetch the image of a task that is in Label Studio by way of its storage, as the labeler's browser would.

    ``client`` is signed in. Raises LabelStudioError where it does not come, or is not ``file``.
    """
    shown = client.get(f"/api/tasks/{task}/").raise_for_status().json()["data"]["image"]
    if shown == address:
        raise LabelStudioError(_unseen(address, "Label Studio does not take it for an address of its storage"))
    try:
        answer = client.get(shown, follow_redirects=True, timeout=_PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LabelStudioError(_unseen(address, f"it can't be fetched ({type(error).__name__})")) from None
    if why := (f"it comes with status {answer.status_code}" if answer.status_code != 200 else "") or other_file(
        answer.content, file
    ):
        raise LabelStudioError(_unseen(address, why))


def _unseen(address: str, why: str) -> str:
    return f"labelers would not see the image {address}: {why}; or correct review.images_url"


def some_of(entries: Sequence[Any]) -> list[Any]:
    """The first, the middle and the last, for looking at a few of many.

    >>> some_of([1, 2, 3, 4, 5]), some_of([1]), some_of([])
    ([1, 3, 5], [1], [])
    """
    return list(dict.fromkeys(entries[place] for place in (0, len(entries) // 2, -1))) if entries else []
