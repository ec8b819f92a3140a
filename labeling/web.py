"""Talking HTTP to Label Studio: who we are, and the one place where its faults become ours.

Nothing that Label Studio sends back is quoted but its own short explanation: responses carry session cookies, and
requests carry tokens.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from curation.errors import LabelStudioError

_TIMEOUT = 60.0
_LONGEST_DETAIL = 200


def web_origin(address: str) -> str:
    """Scheme, host and port of an http address, as browsers name where a page is from: without a default port.

    Raises ValueError where it is no such address.

    >>> web_origin("https://Tools.example.org:443/label-studio"), web_origin("http://[::1]:8080")
    ('https://tools.example.org', 'http://[::1]:8080')
    """
    parts = urlsplit(address)
    defaults = {"http": 80, "https": 443}
    if parts.scheme not in defaults or not parts.hostname:
        raise ValueError(f"'{address}' is no address of http or https")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port
    return f"{parts.scheme}://{host}" + ("" if port in (None, defaults[parts.scheme]) else f":{port}")


@contextmanager
def faults_as_ours(url: str, doing: str, *refusals: type[Exception]) -> Iterator[None]:
    """Turn every fault of httpx, and ``refusals`` (with ``status_code`` and ``body``), into one LabelStudioError.

    ``doing`` says what was tried, as in "sending tasks".
    """
    try:
        yield
    except httpx.HTTPStatusError as error:
        # No cause is kept where it would carry headers: a traceback must not show cookies or tokens.
        raise LabelStudioError(refusal(url, doing, error.response.status_code, _body(error.response))) from None
    except httpx.TimeoutException as error:
        raise LabelStudioError(f"Label Studio at {url} took too long while {doing}; try again") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LabelStudioError(
            f"Label Studio at {url} can't be reached while {doing} ({type(error).__name__}); "
            "start it with `curate label`, or check LABEL_STUDIO_URL"
        ) from error
    except refusals as error:
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        raise LabelStudioError(refusal(url, doing, status, body)) from None


def refusal(url: str, doing: str, status: int | None, body: object) -> str:
    """What a refused request means, in a sentence (pure).

    >>> refusal("http://x", "sending tasks", 401, {"detail": "Invalid token."})
    'Label Studio at http://x refused our token while sending tasks (Invalid token.); check LABEL_STUDIO_API_KEY'
    """
    detail = _detail(body)
    if status in (401, 403):
        why = f" ({detail})" if detail else ""
        return f"Label Studio at {url} refused our token while {doing}{why}; check LABEL_STUDIO_API_KEY"
    said = ", ".join(part for part in (f"status {status}" if status else "", detail) if part)
    return f"Label Studio at {url} failed while {doing} ({said or 'no reason given'}); see its log and try again"


def _body(response: httpx.Response) -> object:
    try:
        return response.json()
    except (ValueError, httpx.ResponseNotRead):
        return None


def _detail(body: object) -> str:
    """The explanation in an error's body: a short text of the server's own, never a page or a whole object."""
    if not isinstance(body, Mapping):
        return ""
    errors = body.get("validation_errors")
    found = [body.get("detail"), *(errors.values() if isinstance(errors, Mapping) else ())]
    words = " ".join(str(v[0] if isinstance(v, list) and v else v) for v in found if v)
    return re.sub(r"\s+", " ", words)[:_LONGEST_DETAIL]


class TokenAuth(httpx.Auth):
    """Signs requests with an API token of either kind: a legacy token as it is, a personal one by way of a short pass.

    A personal access token (three parts with dots between) buys an access token that lives five minutes; a new one is
    fetched when the server says 401.
    """

    requires_response_body = True

    def __init__(self, url: str, token: str) -> None:
        self._refresh_url = f"{url.rstrip('/')}/api/token/refresh/"
        self._token = token
        self._access = ""
        self._personal = token.count(".") == 2

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """httpx's hook: add the header, and once renew an access token that has run out."""
        if not self._personal:
            request.headers["Authorization"] = f"Token {self._token}"
            yield request
            return
        if not self._access:
            yield from self._renew()
        request.headers["Authorization"] = f"Bearer {self._access}"
        response = yield request
        if response.status_code == 401:
            yield from self._renew()
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request

    def _renew(self) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield httpx.Request("POST", self._refresh_url, json={"refresh": self._token})
        response.raise_for_status()
        self._access = response.json()["access"]


def token_client(url: str, token: str) -> httpx.Client:
    """A client that speaks for the owner of ``token``."""
    return httpx.Client(base_url=url, auth=TokenAuth(url, token), timeout=_TIMEOUT)


def plain_client(url: str) -> httpx.Client:
    """A client that has not signed in, with cookies of its own like a fresh browser."""
    return httpx.Client(base_url=url, timeout=_TIMEOUT)


def sign_in(client: httpx.Client, email: str, password: str) -> bool:
    """Sign a fresh client in by the form that people use; false where email and password do not fit."""
    client.get("/user/login/").raise_for_status()
    answer = post_form(client, "/user/login/", {"email": email, "password": password})
    return answer.status_code == 302


def post_form(client: httpx.Client, page: str, fields: Mapping[str, str]) -> httpx.Response:
    """Post a form of ``page`` with the protection that Label Studio asks for; 302 means that it was accepted."""
    token = client.cookies.get("csrftoken") or ""
    answer = client.post(page, data={**fields, "csrfmiddlewaretoken": token}, headers=_same_site(client))
    if answer.status_code not in (200, 302):
        answer.raise_for_status()
    return answer


def post_json(client: httpx.Client, path: str, values: Mapping[str, Any] | None = None) -> httpx.Response:
    """Post JSON within a session that ``sign_in`` began."""
    headers = {**_same_site(client), "X-CSRFToken": client.cookies.get("csrftoken") or ""}
    return client.post(path, json=dict(values or {}), headers=headers)


def _same_site(client: httpx.Client) -> dict[str, str]:
    return {"Referer": str(client.base_url)}
