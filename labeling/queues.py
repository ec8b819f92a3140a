"""A queue for each person: who is asked about what, where people have Label Studio projects of their own (pure).

Label Studio's community edition can't assign tasks, so a person's queue is a project a stream that only this person
works on. Nothing is stored of who was to be asked: it follows from the batch, the people, and what is there already.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from curation.records import QueueEntry
from labeling.tasks import STREAMS, AnsweredTask, Queue, owner_of, served_order, stream_of


@dataclass(frozen=True)
class PersonQueue:
    """How far a person is with a batch: opinions given, and given or open in all; ``addresses`` by stream."""

    person: str
    answered: int
    asked: int
    addresses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What belongs into each Label Studio project of a batch.

    ``wanted`` are entries whose open task has to be there, in served order; ``kept`` keys whose task stays where it is,
    because somebody has answered it; ``there`` keys that have a task there now; ``asked`` who has answered an entry,
    by key, where that is known from Label Studio itself.
    """

    wanted: Mapping[Queue, tuple[QueueEntry, ...]]
    kept: Mapping[Queue, frozenset[str]] = field(default_factory=dict)
    there: Mapping[Queue, frozenset[str]] = field(default_factory=dict)
    asked: Mapping[str, Collection[str]] = field(default_factory=dict)

    def without(self, stuck: Mapping[Queue, Collection[str]]) -> Plan:
        """The plan where tasks with these keys could not be taken from their queues: somebody is at work on them.

        So nobody else is asked in their place.
        """
        wanted = {queue: list(entries) for queue, entries in self.wanted.items()}
        for queue, keys in stuck.items():
            for key in keys:
                for other in wanted:
                    new = [e for e in wanted[other] if e.key == key and key not in self.there.get(other, ())]
                    if other != queue and new:
                        wanted[other].remove(new[0])
                        break
        return replace(self, wanted={queue: tuple(entries) for queue, entries in wanted.items()})


def plan_together(entries: Sequence[QueueEntry], answered: Mapping[str, Collection[str]]) -> Plan:
    """All people share two queues; entries that have all their opinions are sent no more."""
    wanted, kept = {}, {}
    for stream in STREAMS:
        mine = served_order([e for e in entries if stream_of(e) == stream])
        wanted[Queue(stream)] = tuple(e for e in mine if len(answered.get(e.key, ())) < e.opinions)
        kept[Queue(stream)] = frozenset(e.key for e in mine) - {e.key for e in wanted[Queue(stream)]}
    return Plan(wanted, kept)


def plan_apart(
    entries: Sequence[QueueEntry],
    people: Sequence[str],
    tasks: Sequence[AnsweredTask],
    answered: Mapping[str, Collection[str]],
    judged: Mapping[str, Collection[str]],
    deleted: Collection[tuple[str, str]],
    old: Mapping[str, Collection[Queue]],
) -> Plan:
    """A queue for each of ``people``, or where there are none the shared ones, with what lies in other queues.

    ``tasks`` are those of these entries that are there, ``answered`` says who has answered them, ``deleted`` which
    (origin and key) hold an answer that somebody has deleted and that was not withdrawn yet, ``old`` in which queues an
    open task of an earlier batch asks about the same image.
    """
    names = {owner_of(person): person for person in people}
    taken = {key: set(persons) for key, persons in answered.items()}
    held = {key: {names.get(queue.owner, "") for queue in queues} for key, queues in old.items()}
    kept: dict[Queue, set[str]] = defaultdict(set)
    there: dict[Queue, set[str]] = defaultdict(set)
    for task in tasks:
        key, queue = str(task.about["key"]), task.queue or Queue("shown")
        there[queue].add(key)
        if task.annotations:
            kept[queue].add(key)
        elif (task.origin, key) in deleted:
            kept[queue].add(key)
            taken.setdefault(key, set()).add(names.get(queue.owner, queue.owner))
        else:
            held.setdefault(key, set()).add(names.get(queue.owner, ""))
    if people:
        shares = share_out(entries, people, taken=taken, judged=judged, held=held)
        queues = {e.key: [Queue(stream_of(e), owner_of(p)) for p in shares[e.key]] for e in entries}
        wanted: dict[Queue, list[QueueEntry]] = {Queue(s, owner_of(p)): [] for p in people for s in STREAMS}
        for entry in entries:
            for queue in queues[entry.key]:
                wanted[queue].append(entry)
    else:
        together = plan_together(entries, taken)
        wanted = {queue: list(mine) for queue, mine in together.wanted.items()}
        for queue, keys in together.kept.items():
            kept[queue] |= keys
    return Plan(
        {queue: tuple(served_order(mine)) for queue, mine in wanted.items()},
        {queue: frozenset(keys) for queue, keys in kept.items()},
        {queue: frozenset(keys) for queue, keys in there.items()},
        {key: frozenset(persons) for key, persons in answered.items()},
    )


def progress_of(
    entries: Sequence[QueueEntry],
    people: Sequence[str],
    tasks: Sequence[AnsweredTask],
    answered: Mapping[str, Collection[str]],
) -> list[tuple[str, int, int]]:
    """Person, opinions given, and given or open in their queue: first ``people``, then whoever else has answered."""
    names = {owner_of(person): person for person in people}
    given = Counter(p for e in entries for p in set(answered.get(e.key, ())))
    missing = {e.key for e in entries if len(set(answered.get(e.key, ()))) < e.opinions}
    waiting: dict[str, set[str]] = defaultdict(set)
    for task in tasks:
        key, person = str(task.about["key"]), names.get(task.queue.owner if task.queue else "")
        if person is not None and key in missing and person not in answered.get(key, ()):
            waiting[person].add(key)
    others = sorted(p for p in given if p not in people)
    return [(p, given[p], given[p] + len(waiting[p])) for p in (*people, *others)]


def share_out(
    entries: Sequence[QueueEntry],
    people: Sequence[str],
    *,
    taken: Mapping[str, Collection[str]],
    judged: Mapping[str, Collection[str]],
    held: Mapping[str, Collection[str]],
) -> dict[str, tuple[str, ...]]:
    """Who is still to be asked about each entry, by key: as many of ``people`` as opinions are missing, none twice.

    ``taken`` says, by key, who has answered the entry already (anybody), ``judged`` who has judged its image in answer
    to another one, and so is asked only where nobody else can be, ``held`` in whose queues the open task is now. Each
    person gets an even number of each mode (answered or open, one more or less), and so of the worst, of blind ones
    and of controls: entries are dealt out, in served order, to whoever has the fewest. Open tasks stay where they are;
    where people come, go, or answer one another's, as few are moved as make it even, those that come last first.

    >>> batch = [QueueEntry(key, key, 1, n, "shown", None, None, "") for n, key in enumerate("abc")]
    >>> share_out(batch, ["Ana", "Ben"], taken={"a": ["Ben"]}, judged={}, held={"b": ["Cyd"], "c": ["Ben"]})
    {'a': (), 'b': ('Ana',), 'c': ('Ben',)}
    """
    ordered = [e for stream in STREAMS for e in served_order([e for e in entries if stream_of(e) == stream])]
    able = {e.key: _able(people, taken.get(e.key, ()), judged.get(e.key, ())) for e in ordered}
    wanted = {e.key: min(max(e.opinions - len(set(taken.get(e.key, ()))), 0), len(able[e.key])) for e in ordered}
    shares: dict[str, list[str]] = {}
    load = Counter((person, e.mode) for e in ordered for person in set(taken.get(e.key, ())))
    for entry in ordered:
        kept = [p for p in able[entry.key] if p in held.get(entry.key, ())][: wanted[entry.key]]
        shares[entry.key] = kept
        load.update((person, entry.mode) for person in kept)
    by_mode = [e for mode in dict.fromkeys(e.mode for e in ordered) for e in ordered if e.mode == mode]
    totals = Counter[str]()
    for (person, _), count in load.items():
        totals[person] += count
    for entry in by_mode:
        mine = shares[entry.key]
        while len(mine) < wanted[entry.key]:
            free = [p for p in able[entry.key] if p not in mine]
            least = min(free, key=lambda p: (load[p, entry.mode], totals[p]))
            mine.append(least)
            load[least, entry.mode] += 1
            totals[least] += 1
    for mode in dict.fromkeys(e.mode for e in ordered):
        _level([e for e in ordered if e.mode == mode], people, able, shares, {p: load[p, mode] for p in people})
    return {e.key: tuple(p for p in people if p in shares[e.key]) for e in entries}


def _able(people: Sequence[str], taken: Collection[str], judged: Collection[str]) -> list[str]:
    """Who can be asked: nobody who has answered, and who has judged the image only where there is nobody else."""
    free = [p for p in people if p not in taken]
    return [p for p in free if p not in judged] or free


def _level(
    entries: Sequence[QueueEntry],
    people: Sequence[str],
    able: Mapping[str, Collection[str]],
    shares: dict[str, list[str]],
    load: dict[str, int],
) -> None:
    """Move open entries, the last first, from who has more to who has less, until nobody has two more than another."""
    open_with = {p: [e for e in entries if p in shares[e.key]] for p in people}
    stuck: set[tuple[str, str]] = set()
    while True:
        pairs = [(rich, poor) for rich in people for poor in people if load[rich] - load[poor] >= 2]
        pairs = [pair for pair in pairs if pair not in stuck]
        if not pairs:
            return
        rich, poor = max(pairs, key=lambda pair: load[pair[0]] - load[pair[1]])
        mine = open_with[rich]
        places = range(len(mine) - 1, -1, -1)
        place = next((n for n in places if poor in able[mine[n].key] and poor not in shares[mine[n].key]), None)
        if place is None:
            stuck.add((rich, poor))
            continue
        entry = mine.pop(place)
        open_with[poor].append(entry)
        shares[entry.key] = [poor if p == rich else p for p in shares[entry.key]]
        load[rich] -= 1
        load[poor] += 1
