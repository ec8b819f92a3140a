"""Projects that people made themselves: what of a screen, a task and an answer is taken, and what is not."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests_web import web_server

from curation.errors import DataError
from curation.records import WITHDRAWN, Classes, Verdict
from curation.runs import write_whole
from labeling.adopting import TheirProject, TheirTask, fetch_images, read_screen, their_tasks, verdicts_of
from labeling.exchange import own_path, path_in
from labeling.server import Connection
from labeling.tasks import choice_result

CLASSES = Classes(("c1", "c2"), ("cat", "dog"))
PROJECT = TheirProject(7, "Pets", "2026-01-01T00:00:00Z", ("cat", "dog"), "picture")
PATHS = {"s1": ("upload/7/0a1b-1.png",), "s2": ("photos/2.png",), "s3": ("a/3.png",), "s4": ("b/3.png",)}


def answer(number: int, person: int, *chosen: str, **more: Any) -> dict[str, Any]:
    part = {"from_name": "kind", "type": "choices", "value": {"choices": list(chosen)}}
    moment = f"2026-01-01T10:00:{number:02d}Z"
    return {"id": number, "result": [part], "completed_by": person, "updated_at": moment, "lead_time": 2.0} | more


def task(number: int, address: str, *annotations: dict[str, Any]) -> TheirTask:
    whole = {"id": number, "updated_at": "2026-01-02T00:00:00Z", "data": {"picture": address}}
    return TheirTask(path_in(address), address, annotations, whole)


@pytest.mark.parametrize(
    ("annotations", "label"),
    [
        ([], ""),
        ([answer(1, 3, "cat")], "cat"),
        ([answer(1, 3, "cat"), answer(2, 4, "dog"), answer(3, 5, "dog")], "dog"),
        ([answer(1, 3, "cat"), answer(2, 4, "dog")], "cat"),
        ([answer(1, 3, "cat"), answer(2, 3, "dog"), answer(3, 4, "dog")], "dog"),
        ([answer(1, 3, "cat", "dog"), answer(2, 4, was_cancelled=True), answer(3, 5, "bad image")], ""),
    ],
)
def test_a_label_is_what_most_people_chose_last(annotations: list[dict[str, Any]], label: str) -> None:
    assert task(1, "/1.png", *annotations).label == label


@pytest.mark.parametrize(
    ("screen", "complaint"),
    [
        ("<View", "can't be read"),
        ("<View><Text value='$t'/><Choices><Choice value='a'/></Choices></View>", "got no image and 1 such questions"),
        ("<View><Image value='$i'/></View>", "got an image and 0 such questions"),
        ("<View><Image value='$i'/><Choices/><Choices/></View>", "got an image and 2 such questions"),
    ],
)
def test_a_screen_that_asks_something_else_is_refused_by_name(screen: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint) as refused:
        read_screen(screen, "Pets")
    assert "project 'Pets'" in str(refused.value)


def test_answers_are_known_by_path_then_by_name_and_come_twice_the_same() -> None:
    tasks = [
        task(1, "/data/upload/7/0a1b-1.png", answer(1, 3, "cat")),
        task(2, "https://host/other/2.png?x=1", answer(2, 4, "dog"), answer(3, 9, "horse")),
        task(3, "/data/local-files/?d=b/3.png", answer(4, 3, "dog")),
        task(4, "/nobody/3.png", answer(5, 3, "dog")),
    ]
    people = {3: "ann", 4: "bob@example.com"}
    found, aside = verdicts_of(PROJECT, tasks, CLASSES, PATHS, people, [], iteration=2)
    assert [(v.sample_id, v.answer, v.person, v.mode, v.iteration, v.seconds) for v in found] == [
        ("s1", "c1", "ann", "blind", 2, 2.0),
        ("s2", "c2", "bob@example.com", "blind", 2, 2.0),
        ("s4", "c2", "ann", "blind", 2, 2.0),
    ]
    assert ["'horse'" in aside[0], "task 4 of project 'Pets' is of no image" in aside[1]] == [True, True]
    assert verdicts_of(PROJECT, tasks, CLASSES, PATHS, people, [], iteration=2) == (found, aside)


def test_what_was_deleted_there_is_withdrawn_and_what_is_gone_with_its_task_stands() -> None:
    tasks = [task(1, "/0a1b-1.png", answer(1, 3, "cat")), task(2, "/2.png", answer(2, 3, "dog"))]
    known, _ = verdicts_of(PROJECT, tasks, CLASSES, PATHS, {3: "ann"}, [], iteration=0)
    found, _ = verdicts_of(PROJECT, [task(1, "/0a1b-1.png")], CLASSES, PATHS, {3: "ann"}, known, iteration=0)
    assert [(v.source, v.answer, v.at) for v in found] == [
        (known[0].source, WITHDRAWN, datetime(2026, 1, 2, tzinfo=UTC))
    ]


def test_classes_that_are_named_like_our_ids_are_names() -> None:
    """As State Farm's c0 to c9; a question called ``label`` is theirs as well as any other."""
    classes = Classes(("c1", "c2", "c3"), ("c0", "c1", "dog"))
    tasks = [
        task(number, f"/{number}.png", answer(number, 3, chosen, result=[choice_result(chosen)[0]]))
        for number, chosen in ((1, "c1"), (2, "c0"), (3, "c3"))
    ]
    paths = {f"s{number}": (f"{number}.png",) for number in (1, 2, 3)}
    found, (aside,) = verdicts_of(PROJECT, tasks, classes, paths, {3: "ann"}, [], iteration=0)
    assert [(v.sample_id, classes.name(v.answer)) for v in found] == [("s1", "c1"), ("s2", "c0")]
    assert "annotation 3 of task 3" in aside
    assert "c3" in aside


def listed(*addresses: str) -> list[dict[str, Any]]:
    """Tasks as Label Studio lists them, by number from 1: an answer of ann to each, cat and dog in turn."""
    return [
        {"id": n, "updated_at": "2026-01-02T00:00:00Z", "data": {"picture": address},
         "annotations": [answer(n, 3, ("dog", "cat")[n % 2])]}
        for n, address in enumerate(addresses, start=1)
    ]  # fmt: skip


DRIVE = [f"https://drive.example/uc?id={which}" for which in "ABC"]


def test_images_of_which_the_path_is_the_same_but_not_the_address_are_two(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        (tmp_path / colour).mkdir()
        Image.new("RGB", (4, 4), colour).save(tmp_path / colour / "1.png")
    with web_server(tmp_path / "red") as red, web_server(tmp_path / "blue") as blue:
        addresses = [f"{red.url}/1.png", f"{blue.url}/1.png"]
        tasks = their_tasks(listed(*addresses), "picture")
        assert fetch_images(Connection("http://127.0.0.1:1", "token"), tasks, tmp_path / "images") == []
    colours = [Image.open(tmp_path / "images" / t.path).getpixel((0, 0)) for t in tasks]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    assert [(t.path, t.label) for t in tasks] == [(own_path(addresses[0]), "cat"), (own_path(addresses[1]), "dog")]


def test_a_path_that_is_an_images_own_is_its_address_s_alone() -> None:
    alone = their_tasks(listed("s3://a/x/1.png", "s3://a/x/2.png", "s3://a/x/1.png"), "picture")
    assert [t.path for t in alone] == ["x/1.png", "x/2.png", "x/1.png"]
    first, second = (their_tasks(listed(*order), "picture") for order in (DRIVE, DRIVE[::-1]))
    assert {t.path for t in first} == {t.path for t in second}
    assert len({t.path for t in first}) == 3


def test_answers_find_the_image_of_their_address_whatever_other_tasks_there_are() -> None:
    adopted = their_tasks(listed(*DRIVE[:2]), "picture")
    paths = {"sA": (adopted[0].path,), "sB": (adopted[1].path,)}

    def samples_of(*addresses: str) -> tuple[list[str], int]:
        tasks = their_tasks(listed(*addresses), "picture")
        found, aside = verdicts_of(PROJECT, tasks, CLASSES, paths, {3: "ann"}, [], iteration=0)
        return [v.sample_id for v in found], len(aside)

    assert samples_of(*DRIVE[:2]) == (["sA", "sB"], 0)
    assert samples_of(DRIVE[1]) == (["sB"], 0)
    assert samples_of(*DRIVE[::-1]) == (["sB", "sA"], 1)
    assert samples_of(DRIVE[2]) == ([], 1)


def test_of_two_images_that_were_adopted_as_one_the_first_keeps_it_and_answers_to_the_other_are_withdrawn() -> None:
    """Before paths told such images apart, the first was fetched and the answers to both were taken for its own."""
    paths = {"s1": ("uc",)}
    tasks = their_tasks(listed(*DRIVE[:2]), "picture")
    origin = f"{PROJECT.created_at}-{PROJECT.number}"
    known = [
        Verdict("s1", chosen, "ann", datetime(2026, 1, 1, tzinfo=UTC), "adopted:s1", f"ls:{origin}:annotation:{n}",
                "blind", 0)
        for n, chosen in ((1, "c1"), (2, "c2"))
    ]  # fmt: skip
    found, (aside,) = verdicts_of(PROJECT, tasks, CLASSES, paths, {3: "ann"}, known, iteration=0)
    assert [(v.source, v.answer) for v in found] == [(known[0].source, "c1"), (known[1].source, WITHDRAWN)]
    assert "project 'Pets': task 2 can't be told from another by the path of its image" in aside
    assert DRIVE[1] in aside


def test_an_image_that_its_address_holds_is_taken_out_of_it(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    held = "data:image/png;base64," + base64.b64encode((tmp_path / "red.png").read_bytes()).decode()
    broken = held[:-7] + "!" * 3_000
    tasks = their_tasks(listed(held, held, broken), "picture")
    (reason,) = fetch_images(Connection("http://127.0.0.1:1", "token"), tasks, tmp_path / "images")
    assert (tmp_path / "images" / tasks[0].path).read_bytes() == (tmp_path / "red.png").read_bytes()
    assert [tasks[0].path, tasks[0].path[-4:]] == [tasks[1].path, ".png"]
    assert reason.startswith("the image data:image/png;base64,")
    assert len(reason) < 200
    found, _ = verdicts_of(PROJECT, tasks[:2], CLASSES, {"s": (tasks[0].path,)}, {3: "ann"}, [], iteration=0)
    assert [v.answer for v in found] == ["c1", "c2"]


def test_an_image_whose_name_is_too_long_for_a_disk_gets_a_shorter_one(tmp_path: Path) -> None:
    addresses = [f"https://host/x/{'ü' * 150}{end}" for end in ("a.png", "b.png", "b.png?v=2", "." + 300 * "p")]
    tasks = their_tasks(listed(*addresses), "picture")
    for one in tasks:
        write_whole(tmp_path / one.path, one.address)
    assert [(tmp_path / one.path).read_text() for one in tasks] == addresses
    assert [Path(one.path).suffix for one in tasks] == [".png", ".png", ".png", ""]
    paths = {f"s{n}": (t.path,) for n, t in enumerate(tasks)}
    found, _ = verdicts_of(PROJECT, tasks, CLASSES, paths, {3: "ann"}, [], iteration=0)
    assert [v.sample_id for v in found] == ["s0", "s1", "s2", "s3"]


def test_an_image_that_its_host_refuses_is_told_with_the_status(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    with web_server(tmp_path) as web:
        web.status = 503
        tasks = their_tasks(listed(f"{web.url}/1.png"), "picture")
        web_says = fetch_images(Connection("http://127.0.0.1:1", "token"), tasks, tmp_path / "images")
    assert web_says == [f"the image {web.url}/1.png can't be had (status 503)"]
