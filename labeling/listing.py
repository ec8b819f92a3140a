"""Which tasks a Label Studio project has, and their answers: filters of its lists, read page by page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import httpx

_T = TypeVar("_T")
#: Tasks that are asked for by their keys in one request.
CHUNK = 500
#: Tasks with their answers in one request.
_PAGE = 1000
_ANSWER_FIELDS = (
    "id,data,annotations,result,completed_by,was_cancelled,lead_time,created_at,updated_at,updated_by,"
    "total_annotations,overlap"
)


def tasks_of_keys(client: httpx.Client, project: Any, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The tasks with these keys, with their annotations; the whole project is read where most of it is wanted.

    Read as plain JSON: the library takes longer to check its shape than the server to make it.
    """
    wanted = set(keys)
    asked: dict[str, Any] = {"project": project.id, "page_size": _PAGE, "fields": "all", "include": _ANSWER_FIELDS}
    if 2 * len(wanted) > (project.task_number or 0):
        queries: list[str] = [json.dumps({"ordering": ["tasks:id"]})] if wanted else []
    else:
        queries = [task_filter("data.key", "in_list", "List", list(chunk)) for chunk in chunks_of(keys, CHUNK)]
    for query in queries:
        for task in listed(client, {**asked, "query": query}):
            if (task.get("data") or {}).get("key") in wanted:
                yield task


def listed(client: httpx.Client, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tasks that a list with these parameters has, ``page_size`` at a time."""
    for page in itertools.count(1):
        answer = client.get("/api/tasks/", params={**asked, "page": page}, timeout=300)
        if answer.status_code == 404 and page > 1:  # past the last page
            return
        tasks = answer.raise_for_status().json()["tasks"]
        yield from tasks
        if len(tasks) < asked["page_size"]:
            return


def task_filter(column: str, operator: str, kind: str, value: object) -> str:
    """The ``query`` for tasks whose ``column`` fulfils a condition, in the order of their ids."""
    items = [task_condition(column, operator, kind, value)]
    return json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})


def task_condition(column: str, operator: str, kind: str, value: object) -> dict[str, object]:
    """A condition on tasks, as Label Studio's filters have it."""
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}


def chunks_of(everything: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Everything in order, so many at a time."""
    for start in range(0, len(everything), size):
        yield everything[start : start + size]
