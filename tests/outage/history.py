"""What a witness was told, and whether it was the truth. Pure.

A history is one client's view: each write with its answer, the watch from its beginning to its end,
and what a list says when all is over. Keys are never used again after a delete, each key is written
by one writer after the other, and every update compares the revision and every delete the uid; so a
write without an answer may take effect late, but never after a later one of the same key was
acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

ACKNOWLEDGED, REFUSED, UNKNOWN = "acknowledged", "refused", "unknown"
ABSENT = ""


@dataclass(frozen=True, slots=True)
class Write:
    """``act`` is create, update or delete; ``value`` what is there afterwards, unique in the
    history ("" for a delete); ``revision`` as answered (0: none was). Times are monotonic
    seconds."""

    key: str
    act: str
    value: str
    outcome: str
    began: float
    ended: float
    revision: int = 0
    why: str = ""  # the error's words

    def __str__(self) -> str:
        what = f"{self.act} {self.key}" + (f" = {self.value}" if self.value else "")
        return f"{what} ({self.outcome}" + (f" at {self.revision})" if self.revision else ")")


@dataclass(frozen=True, slots=True)
class Seen:
    """One event of the watch; ``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    revision: int
    key: str = ""
    value: str = ABSENT

    def __str__(self) -> str:
        return f"{self.type} {self.key} = {self.value} at {self.revision}"


@dataclass(frozen=True, slots=True)
class Listed:
    """All keys and their values at a revision."""

    revision: int = 0
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    start: Listed = field(default_factory=Listed)
    end: Listed = field(default_factory=Listed)
    writes: list[Write] = field(default_factory=list)
    #: The watch. A list among the events: it was told that its revision is too old (410), and began
    #: anew with what was there.
    seen: list[Seen | Listed] = field(default_factory=list)

    def acknowledged(self) -> list[Write]:
        return [write for write in self.writes if write.outcome == ACKNOWLEDGED]


def violations(history: History) -> list[str]:
    """Every broken promise, in words; an empty list is a good cluster."""
    return [
        *_kept(history),
        *_forward(history),
        *_ordered(history),
        *_complete(history),
        *_agreeing(history),
    ]


def longest_silence(history: History, since: float, until: float) -> float:
    """The longest time between two acknowledgements from ``since`` to ``until``, in seconds; both
    ends of the span count as one."""
    times = sorted(w.ended for w in history.acknowledged() if since <= w.ended <= until)
    return max(after - before for before, after in pairwise([since, *times, until]))


def _by_key(writes: Sequence[Write]) -> dict[str, list[Write]]:
    found: dict[str, list[Write]] = {}
    for write in sorted(writes, key=lambda write: write.began):
        found.setdefault(write.key, []).append(write)
    return found


def _kept(history: History) -> Iterator[str]:
    """At the end is what the answers allow: acknowledged is there, refused is not."""
    by_key = _by_key(history.writes)
    for key, writes in by_key.items():
        last = history.start.values.get(key, ABSENT)
        possible, refused = {last}, {w.value for w in writes if w.outcome == REFUSED and w.value}
        for write in writes:
            if write.outcome == ACKNOWLEDGED:
                possible = {write.value}
            elif write.outcome == UNKNOWN:
                possible.add(write.value)
        found = history.end.values.get(key, ABSENT)
        if found in possible:
            continue
        acknowledged = [w for w in writes if w.outcome == ACKNOWLEDGED]
        word = str(acknowledged[-1]) if acknowledged else "no write acknowledged"
        if found in refused:
            yield f"{key}: refused, and yet there is {found!r} at the end"
        elif found == ABSENT:
            yield f"{key}: lost: {word}, and nothing is there at the end"
        elif possible == {ABSENT}:
            yield f"{key}: resurrected: {word}, and there is {found!r} at the end"
        else:
            yield f"{key}: lost: {word}, and there is {found!r} at the end"
    for key in history.end.values.keys() - by_key.keys() - history.start.values.keys():
        yield f"{key}: from nowhere: nobody wrote it"


def _forward(history: History) -> Iterator[str]:
    """A write that began after another was acknowledged has a greater revision."""
    answered = [write for write in history.acknowledged() if write.revision]
    by_end = sorted(answered, key=lambda write: write.ended)
    greatest: Write | None = None
    place = 0
    for write in sorted(answered, key=lambda write: write.began):
        while place < len(by_end) and by_end[place].ended < write.began:
            if greatest is None or by_end[place].revision > greatest.revision:
                greatest = by_end[place]
            place += 1
        if greatest is not None and write.revision <= greatest.revision:
            yield f"revisions go back: {write} began after {greatest}"
    newest = max(answered, key=lambda write: write.revision, default=None)
    if newest is not None and history.end.revision < newest.revision:
        yield f"revisions go back: the last list is at {history.end.revision}, after {newest}"


def _ordered(history: History) -> Iterator[str]:
    """Events come in the order of their revisions, each once; keys appear before they change."""
    there = set(history.start.values)
    last = history.start.revision
    for event in history.seen:
        if isinstance(event, Listed):
            if event.revision < last:
                yield f"watch: a list at {event.revision} after revision {last}"
            there, last = set(event.values), event.revision
            continue
        if event.type == "BOOKMARK":
            if event.revision < last:
                yield f"watch: a bookmark at {event.revision} after revision {last}"
            last = max(last, event.revision)
            continue
        if event.revision <= last:
            yield f"watch: disorder or repetition: {event} after revision {last}"
        last = max(last, event.revision)
        if (event.type == "ADDED") == (event.key in there):
            state = "there already" if event.key in there else "not there"
            yield f"watch: {event}, but the key was {state}"
        if event.type == "DELETED":
            there.discard(event.key)
        else:
            there.add(event.key)


def _complete(history: History) -> Iterator[str]:
    """Every acknowledged write is an event, with its revision; no refused one is. Where the watch
    began anew with a list, that list stands for the events before it."""
    events: dict[str, list[Seen]] = {}
    listed: dict[str, set[str]] = {}
    gaps: list[tuple[int, int]] = []
    last = history.start.revision
    for event in history.seen:
        if isinstance(event, Listed):
            gaps.append((last, event.revision))
            for key, value in event.values.items():
                listed.setdefault(key, set()).add(value)
        elif event.type != "BOOKMARK":
            events.setdefault(event.key, []).append(event)
        last = event.revision
    for key, writes in _by_key(history.writes).items():
        mine = events.get(key, [])
        first = {e.value: e.revision for e in reversed(mine) if e.type != "DELETED"}
        gone = any(event.type == "DELETED" for event in mine)
        for write in writes:
            if write.outcome == REFUSED and write.value in first.keys() | listed.get(key, set()):
                yield f"watch: an event of what was refused: {write}"
            if write.outcome != ACKNOWLEDGED:
                continue
            if write.act == "delete":
                if not gone and not gaps:
                    yield f"watch: gap: no event of {write}"
            elif write.value not in first:
                if not any(after < write.revision <= upto for after, upto in gaps):
                    yield f"watch: gap: no event of {write}"
            elif write.revision and first[write.value] != write.revision:
                yield f"watch: the event of {write} says revision {first[write.value]}"


def _agreeing(history: History) -> Iterator[str]:
    """The events up to the last list, applied to the first one, give the last one."""
    values = dict(history.start.values)
    for event in history.seen:
        if event.revision > history.end.revision:
            break
        if isinstance(event, Listed):
            values = dict(event.values)
        elif event.type == "DELETED":
            values.pop(event.key, None)
        elif event.type != "BOOKMARK":
            values[event.key] = event.value
    for key in sorted(values.keys() | history.end.values.keys()):
        told, listed = values.get(key, ABSENT), history.end.values.get(key, ABSENT)
        if told != listed:
            yield f"{key}: the watch ends with {told!r}, the list says {listed!r}"
