"""Tokens and faults: what is sent, and that nothing secret is ever told."""

from __future__ import annotations

import inspect
import traceback

import httpx
import pytest

from curation.errors import LabelStudioError
from labeling.web import TokenAuth, faults_as_ours, refusal

URL = "http://ls.test"
COOKIE = "sessionid=very-secret"


def client(answer: httpx.MockTransport, token: str) -> httpx.Client:
    return httpx.Client(base_url=URL, auth=TokenAuth(URL, token), transport=answer)


def test_a_legacy_token_goes_as_it_is() -> None:
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200)

    client(httpx.MockTransport(answer), "abc").get("/x")
    assert seen == ["Token abc"]


def test_a_personal_token_buys_a_pass_and_a_new_one_when_it_has_run_out() -> None:
    passes = iter(["first", "second"])
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/token/refresh/":
            assert b"a.b.c" in request.read()
            return httpx.Response(200, json={"access": next(passes)})
        seen.append(request.headers["Authorization"])
        return httpx.Response(401 if len(seen) == 2 else 200)

    with client(httpx.MockTransport(answer), "a.b.c") as who:
        assert [who.get("/x").status_code for _ in range(3)] == [200, 200, 200]
    assert seen == ["Bearer first", "Bearer first", "Bearer second", "Bearer second"]


def test_a_personal_token_that_is_refused_is_our_error() -> None:
    refuse = httpx.MockTransport(lambda _: httpx.Response(401, json={"detail": "Token is invalid"}))
    with pytest.raises(LabelStudioError, match=r"refused our token while looking \(Token is invalid\)"):  # noqa: SIM117 — order matters
        with faults_as_ours(URL, "looking"):
            client(refuse, "a.b.c").get("/x")


def every_httpx_fault() -> list[Exception]:
    request = httpx.Request(
        "GET", f"{URL}/user/signup/?token=very-secret", headers={"Authorization": "Token very-secret"}
    )
    response = httpx.Response(500, request=request, headers={"set-cookie": COOKIE}, text="<html>very-secret</html>")
    kinds = [k for _, k in inspect.getmembers(httpx, inspect.isclass) if issubclass(k, httpx.HTTPError)]
    faults: list[Exception] = [
        k("odd", request=request, response=response) if issubclass(k, httpx.HTTPStatusError) else k("odd")
        for k in kinds
    ]
    with pytest.raises(httpx.HTTPStatusError) as real:
        response.raise_for_status()
    return [*faults, real.value, httpx.InvalidURL("odd")]


@pytest.mark.parametrize("fault", every_httpx_fault(), ids=lambda f: type(f).__name__)
def test_no_fault_of_the_library_gets_through_and_none_tells_a_secret(fault: Exception) -> None:
    with pytest.raises(LabelStudioError) as ours, faults_as_ours(URL, "sending tasks"):
        raise fault
    told = "".join(traceback.format_exception(ours.value))
    assert "very-secret" not in told
    assert URL in str(ours.value)
    assert "sending tasks" in str(ours.value)


class Refusal(Exception):
    """Shaped like the SDK's: its text holds the headers."""

    status_code, body = 400, {"detail": "Validation error", "validation_errors": {"label_config": ["bad tag"]}}

    def __str__(self) -> str:
        return COOKIE


def test_a_refusal_of_the_sdk_is_told_by_its_body_alone() -> None:
    with pytest.raises(LabelStudioError, match=r"\(status 400, Validation error bad tag\)") as ours:  # noqa: SIM117
        with faults_as_ours(URL, "sending tasks", Refusal):
            raise Refusal
    assert COOKIE not in "".join(traceback.format_exception(ours.value))


def test_errors_of_our_own_and_mistakes_in_code_pass() -> None:
    with pytest.raises(KeyError), faults_as_ours(URL, "sending tasks"):
        raise KeyError("x")


@pytest.mark.parametrize("body", [None, "<html>secret</html>", {"detail": ""}, ["x"]])
def test_pages_are_not_quoted(body: object) -> None:
    assert refusal(URL, "looking", 404, body).endswith("(status 404); see its log and try again")
