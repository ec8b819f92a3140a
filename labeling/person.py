"""A person who labels in Label Studio by program: simulated in the demo, scripted in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from labeling.listing import CHUNK, listed, task_filter
from labeling.tasks import STREAMS, Queue, choice_result, owner_of
from labeling.web import faults_as_ours, token_client


class LabelStudioPerson:
    """A simulated or scripted person, who answers by the same requests as a labeler's browser.

    ``url`` is the Label Studio's address, ``token`` the person's own (``labeling.server.person_token``).
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = token

    def answer(
        self,
        project_id: str,
        choose: Callable[[str], str | None],
        seconds: Callable[[str], float] = lambda key: 2.0,
        *,
        limit: int | None = None,
        queue_of: str = "",
    ) -> int:
        """Answer the tasks of a curation project's two streams that this person has not answered, in served order.

        They are those that all share, or those of the person who is named by ``queue_of``.

        ``choose(key)`` gives a class id or special answer, or ``None`` to leave the task; ``seconds(key)`` the time
        taken, as it is recorded (nothing waits). ``limit`` ends after so many answers. Returns the number given.
        """
        given = 0
        with faults_as_ours(self.url, "answering"), token_client(self.url, self._token) as client:
            me = client.get("/api/current-user/whoami").raise_for_status().json()["id"]
            for project in self._projects(client, project_id, queue_of):
                for task in self._open_tasks(client, project, me):
                    key = task["data"]["key"]
                    if limit is not None and given >= limit:
                        return given
                    if (answer := choose(key)) is None:
                        continue
                    client.post(
                        f"/api/tasks/{task['id']}/annotations/",
                        json={"result": choice_result(answer), "lead_time": seconds(key)},
                    ).raise_for_status()
                    given += 1
        return given

    def _projects(self, client: httpx.Client, project_id: str, person: str) -> list[int]:
        projects = client.get("/api/projects/", params={"page_size": 1000}).raise_for_status().json()["results"]
        queues = [Queue(stream, owner_of(person) if person else "") for stream in STREAMS]
        marks = [f"[{project_id}/{queue.name}]" for queue in queues]
        return [p["id"] for mark in marks for p in projects if mark in (p["description"] or "")]

    def _open_tasks(self, client: httpx.Client, project: int, me: int) -> list[dict[str, Any]]:
        """Tasks that still want an opinion and have none of mine, in the order of their ids, as they are served."""
        asked = {
            "project": project, "query": task_filter("is_labeled", "equal", "Boolean", False), "page_size": CHUNK,
            "fields": "all", "include": "id,data,is_labeled,annotations,completed_by",
        }  # fmt: skip
        found = listed(client, asked)
        mine = [t for t in found if all(a.get("completed_by") != me for a in t.get("annotations") or [])]
        return sorted(mine, key=lambda t: int(t["id"]))
