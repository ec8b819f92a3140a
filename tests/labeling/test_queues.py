"""A queue for each person: the batch divided evenly, nobody asked twice, and as little moved as people come and go."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from curation.records import Mode, QueueEntry
from labeling.queues import Plan, plan_apart, progress_of, share_out
from labeling.tasks import AnsweredTask, Queue, owner_of, stream_of

MODES: tuple[Mode, ...] = ("shown", "blind", "control", "holdout")
PEOPLE = ("Ana", "Ben", "Cyd", "Dan", "Eva")
NOTHING: dict[str, Any] = {"taken": {}, "judged": {}, "held": {}}


def entry(number: int, mode: Mode = "shown", opinions: int = 1) -> QueueEntry:
    key = uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex  # in no order, as real keys are
    return QueueEntry(key, f"s{number}", 1, number, mode, "c1", "c2", "", opinions=opinions)


def batch_of(*modes: Mode, opinions: int = 1) -> list[QueueEntry]:
    return [entry(number, mode, opinions) for number, mode in enumerate(modes)]


def counts(shares: dict[str, tuple[str, ...]], entries: list[QueueEntry]) -> Counter[tuple[str, str]]:
    return Counter((person, e.mode) for e in entries for person in shares[e.key])


def task(one: QueueEntry, owner: str, *users: int, origin: str = "there") -> AnsweredTask:
    queue = Queue(stream_of(one), owner_of(owner) if owner else "")
    annotations = tuple({"id": user, "completed_by": user} for user in users)
    return AnsweredTask({"id": one.position, "key": one.key}, annotations, origin, queue)


batches = st.lists(st.sampled_from(MODES), max_size=40).flatmap(
    lambda modes: st.lists(st.integers(1, 3), min_size=len(modes), max_size=len(modes)).map(
        lambda opinions: [entry(n, mode, k) for n, (mode, k) in enumerate(zip(modes, opinions, strict=True))]
    )
)
teams = st.lists(st.sampled_from(PEOPLE), min_size=3, unique=True)


def some_people(batch: list[QueueEntry]) -> st.SearchStrategy[dict[str, set[str]]]:
    """For some entries some people."""
    persons = st.sets(st.sampled_from((*PEOPLE, "somebody else")), max_size=2)
    return st.dictionaries(st.sampled_from([e.key for e in batch]), persons) if batch else st.just({})


cases = batches.flatmap(lambda batch: st.tuples(st.just(batch), *(some_people(batch) for _ in range(3)), teams))
Case = tuple[list[QueueEntry], dict[str, set[str]], dict[str, set[str]], dict[str, set[str]], list[str]]


class TestShareOut:
    def test_the_worst_are_dealt_out_in_turn(self) -> None:
        batch = batch_of(*["shown"] * 6)
        shares = share_out(batch, ("Ana", "Ben"), **NOTHING)
        assert [shares[e.key] for e in batch] == [("Ana",), ("Ben",)] * 3

    def test_blind_ones_and_controls_are_spread_in_proportion(self) -> None:
        batch = batch_of(*["shown"] * 12, *["blind"] * 6, *["control"] * 9)
        found = counts(share_out(batch, ("Ana", "Ben", "Cyd"), **NOTHING), batch)
        assert found == {
            (p, m): n for p in ("Ana", "Ben", "Cyd") for m, n in (("shown", 4), ("blind", 2), ("control", 3))
        }

    def test_a_second_opinion_is_somebody_elses_who_has_not_judged_the_image(self) -> None:
        (one,) = batch = batch_of("blind")
        for who, other in (("Ana", "Ben"), ("Ben", "Ana")):
            assert share_out(batch, ("Ana", "Ben"), taken={}, judged={one.key: [who]}, held={})[one.key] == (other,)

    def test_who_has_judged_an_image_is_asked_again_where_nobody_else_is_left(self) -> None:
        (one,) = batch = batch_of("blind")
        judged = {one.key: ["Ana", "Ben", "Cyd"]}
        assert share_out(batch, ("Ana", "Ben"), taken={}, judged=judged, held={})[one.key] == ("Ana",)

    def test_two_opinions_go_to_two_people_and_one_that_is_there_leaves_one(self) -> None:
        first, second = batch = batch_of("shown", "shown", opinions=2)
        taken = {first.key: ["Ana"], second.key: ["somebody else"]}
        shares = share_out(batch, ("Ana", "Ben"), taken=taken, judged={}, held={})
        assert shares == {first.key: ("Ben",), second.key: ("Ana",)}

    def test_open_tasks_of_who_is_away_go_to_the_others_and_answered_ones_stay(self) -> None:
        batch = batch_of(*["shown"] * 8)
        before = share_out(batch, ("Ana", "Ben"), **NOTHING)
        taken = {e.key: ["Ben"] for e in batch[1:4:2]}
        after = share_out(batch, ("Ana", "Cyd"), taken=taken, judged={}, held=before)
        assert [after[e.key] for e in batch] == [("Ana",), (), ("Ana",), (), ("Ana",), ("Cyd",), ("Cyd",), ("Cyd",)]

    def test_who_comes_later_gets_the_tail_of_the_others_queues(self) -> None:
        batch = batch_of(*["shown"] * 12)
        before = share_out(batch, ("Ana", "Ben"), **NOTHING)
        after = share_out(batch, ("Ana", "Ben", "Cyd"), taken={}, judged={}, held=before)
        assert [n for n, e in enumerate(batch) if after[e.key] == ("Cyd",)] == [8, 9, 10, 11]
        assert all(after[e.key] == before[e.key] for e in batch[:8])

    def test_who_is_quick_gets_nothing_of_the_others(self) -> None:
        batch = batch_of(*["shown"] * 8)
        before = share_out(batch, ("Ana", "Ben"), **NOTHING)
        taken = {key: persons for key, persons in before.items() if persons == ("Ana",)}
        after = share_out(batch, ("Ana", "Ben"), taken=taken, judged={}, held=before)
        assert {key for key, persons in after.items() if persons == ("Ben",)} == before.keys() - taken.keys()

    @given(batches, teams)
    @settings(max_examples=120, deadline=None)
    def test_everybody_gets_the_same_number_of_each_mode_and_in_all(
        self, batch: list[QueueEntry], people: list[str]
    ) -> None:
        shares = share_out(batch, people, **NOTHING)
        found = counts(shares, batch)
        for mode in {e.mode for e in batch}:
            of_mode = [found[person, mode] for person in people]
            assert max(of_mode) - min(of_mode) <= 1
        totals = [sum(found[person, mode] for mode in MODES) for person in people]
        assert max(totals) - min(totals) <= 1
        assert all(len(set(shares[e.key])) == len(shares[e.key]) == e.opinions for e in batch)

    @given(cases)
    @settings(max_examples=120, deadline=None)
    def test_whatever_is_there_nobody_is_asked_twice_and_all_opinions_are_asked_for(self, case: Case) -> None:
        batch, taken, judged, held, people = case
        shares = share_out(batch, people, taken=taken, judged=judged, held=held)
        for e in batch:
            asked, said = shares[e.key], taken.get(e.key, set())
            assert len(set(asked)) == len(asked)
            assert set(asked) <= set(people) - said
            others = set(people) - said - judged.get(e.key, set())
            able = others or set(people) - said
            assert set(asked) <= able
            assert len(asked) == min(max(e.opinions - len(said), 0), len(able))

    @given(cases)
    @settings(max_examples=120, deadline=None)
    def test_asking_again_moves_nothing(self, case: Case) -> None:
        batch, taken, judged, held, people = case
        shares = share_out(batch, people, taken=taken, judged=judged, held=held)
        assert share_out(batch, people, taken=taken, judged=judged, held=shares) == shares
        assert share_out(batch[::-1], people, taken=taken, judged=judged, held=held) == shares

    @given(batches, teams, st.data())
    @settings(max_examples=120, deadline=None)
    def test_what_was_stopped_half_way_ends_the_same(
        self, batch: list[QueueEntry], people: list[str], data: st.DataObject
    ) -> None:
        """Tasks come into one queue after the other, each from the front."""
        whole = share_out(batch, people, **NOTHING)
        sent = data.draw(st.sampled_from(people))
        done = people[: people.index(sent)]
        half = {key: tuple(p for p in persons if p in done) for key, persons in whole.items()}
        assert share_out(batch, people, taken={}, judged={}, held=half) == whole

    @given(batches, teams, st.data())
    @settings(max_examples=120, deadline=None)
    def test_whoever_comes_or_goes_the_batch_stays_even(
        self, batch: list[QueueEntry], people: list[str], data: st.DataObject
    ) -> None:
        batch = [replace(e, opinions=1) for e in batch]
        now = data.draw(teams)
        before = share_out(batch, people, **NOTHING)
        after = share_out(batch, now, taken={}, judged={}, held=before)
        found = counts(after, batch)
        for mode in {e.mode for e in batch}:
            of_mode = [found[person, mode] for person in now]
            assert max(of_mode) - min(of_mode) <= 1
        gone = [k for k, persons in before.items() if not set(persons) & set(now)]
        moved = [k for k, persons in after.items() if persons != before[k] and k not in gone]
        few = len(batch) // len(now)
        assert len(moved) <= sum(max(0, sum(p in x for x in before.values()) - few) for p in now) + len(MODES) * len(
            now
        )


class TestPlan:
    def test_each_queue_keeps_the_order_of_its_stream(self) -> None:
        batch = batch_of(*["shown", "control", "blind"] * 6)
        plan = plan_apart(batch, ("Ana", "Ben"), [], {}, {}, (), {})
        for person in ("Ana", "Ben"):
            shown = plan.wanted[Queue("shown", owner_of(person))]
            blind = plan.wanted[Queue("blind", owner_of(person))]
            assert [e.position for e in shown] == sorted(e.position for e in shown)
            assert [e.key for e in blind] == sorted(e.key for e in blind)
            assert Counter(e.mode for e in blind) == {"blind": 3, "control": 3}
        assert sum(map(len, plan.wanted.values())) == 18

    def test_a_task_that_somebody_else_answered_stays_and_counts(self) -> None:
        batch = batch_of("shown", "shown")
        tasks = [task(batch[0], "Ana", 7), task(batch[1], "Ben")]
        plan = plan_apart(batch, ("Ana", "Ben"), tasks, {batch[0].key: {"Ben"}}, {}, (), {})
        assert plan.kept == {Queue("shown", owner_of("Ana")): {batch[0].key}}
        assert plan.wanted[Queue("shown", owner_of("Ben"))] + plan.wanted[Queue("shown", owner_of("Ana"))] == (
            batch[1],
        )

    def test_a_task_whose_answer_was_deleted_stays_until_that_is_collected(self) -> None:
        (one,) = batch = batch_of("shown")
        tasks = [task(one, "Ben", origin="here")]
        plan = plan_apart(batch, ("Ana", "Cyd"), tasks, {}, {}, {("here", one.key)}, {})
        assert plan.kept == {Queue("shown", owner_of("Ben")): {one.key}}
        assert not any(plan.wanted.values())
        plan = plan_apart(batch, ("Ana", "Cyd"), tasks, {}, {}, (), {})
        assert plan.wanted[Queue("shown", owner_of("Ana"))] == (one,)

    def test_an_open_task_stays_in_the_queue_that_it_is_in(self) -> None:
        batch = batch_of("shown", "shown")
        tasks = [task(batch[0], "Ben"), task(batch[1], "Ana")]
        plan = plan_apart(batch, ("Ana", "Ben"), tasks, {}, {}, (), {})
        assert plan.wanted[Queue("shown", owner_of("Ben"))] == (batch[0],)
        assert plan.wanted[Queue("shown", owner_of("Ana"))] == (batch[1],)

    def test_an_image_of_an_earlier_batch_stays_with_who_has_it(self) -> None:
        batch = batch_of("shown", "shown")
        old = {batch[0].key: {Queue("shown", owner_of("Ben"))}}
        plan = plan_apart(batch, ("Ana", "Ben"), [], {}, {}, (), old)
        assert plan.wanted[Queue("shown", owner_of("Ben"))] == (batch[0],)

    def test_what_somebody_is_at_work_on_is_asked_nowhere_else(self) -> None:
        first, second = batch_of("shown", "shown")
        ana, ben = Queue("shown", owner_of("Ana")), Queue("shown", owner_of("Ben"))
        plan = Plan({ana: (first, second), ben: ()}, there={ana: frozenset({first.key}), ben: frozenset({second.key})})
        assert plan.without({ben: {second.key}}).wanted == {ana: (first,), ben: ()}
        assert plan.without({ben: {"of another batch"}}).wanted == plan.wanted

    def test_back_together_only_what_lacks_opinions_is_asked_of_all(self) -> None:
        batch = batch_of("shown", "shown", "control")
        tasks = [task(batch[0], "Ana", 7), task(batch[1], "Ben"), task(batch[2], "Ben")]
        plan = plan_apart(batch, (), tasks, {batch[0].key: {"Ana"}}, {}, (), {})
        assert plan.wanted == {Queue("shown"): (batch[1],), Queue("blind"): (batch[2],)}
        assert plan.kept[Queue("shown", owner_of("Ana"))] == {batch[0].key}

    def test_progress_tells_what_each_has_answered_and_still_holds(self) -> None:
        batch = batch_of(*["shown"] * 5)
        tasks = [*(task(e, "Ana", *([7] if e is batch[0] else [])) for e in batch[:3]), task(batch[3], "Ben")]
        answered = {batch[0].key: {"Zoë"}, batch[4].key: {"Ana"}}
        assert progress_of(batch, ("Ana", "Ben"), tasks, answered) == [("Ana", 1, 3), ("Ben", 0, 1), ("Zoë", 1, 1)]
