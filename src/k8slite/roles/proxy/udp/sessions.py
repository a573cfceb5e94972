"""UDP sessions: how many there may be, who goes first, and who was silent for too long.

Anybody can invent senders. What tells a live client from an invented one is that it goes on after
it was answered. So there are three ranks: NEW has only sent; ANSWERED got an answer; LIVE came back
after one. When the table is full the new ones give way to each other as soon as they are more than
a share of it, then those that were answered once, then the longest silent live ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Protocol, TypeVar

NEW, ANSWERED, LIVE = 0, 1, 2

#: NEW sessions keep this part of the table, so that an answer has time to come in a flood.
_NEW_SHARE = 8
_SECOND_CHANCES = 8


class Ranked(Protocol):
    """What a table needs of a session. ``used``: something came either way since the last look;
    ``seen``: when that look was, in seconds."""

    rank: int
    used: bool
    seen: float

    @property
    def caller(self) -> Hashable: ...


S = TypeVar("S", bound=Ranked)


class SessionTable(Generic[S]):
    """Sessions by caller, at most ``most``. ``of`` gives a caller's session or None.

    Every call takes a bounded time, but for ``silent`` and iteration. Times are seconds of a clock
    that never jumps.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._sessions: dict[Hashable, S] = {}
        self._ranks: tuple[OrderedDict[Hashable, S], ...] = tuple(OrderedDict() for _ in range(3))
        self.of = self._sessions.get

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[S]:
        return iter(tuple(self._sessions.values()))

    def add(self, session: S, now: float) -> None:
        session.rank, session.used, session.seen = NEW, False, now
        self._sessions[session.caller] = self._ranks[NEW][session.caller] = session

    def promote(self, session: S, rank: int) -> None:
        """It was answered, or came back after that. One that is not there any more is no error."""
        if self._sessions.get(session.caller) is session:
            del self._ranks[session.rank][session.caller]
            session.rank = rank
            self._ranks[rank][session.caller] = session

    def remove(self, session: S) -> bool:
        """Returns whether it was there."""
        if self._sessions.get(session.caller) is not session:
            return False
        del self._ranks[session.rank][session.caller]
        del self._sessions[session.caller]
        return True

    def surplus(self) -> S | None:
        """Who has to go before another can come: None while there is room."""
        if len(self._sessions) < self.most:
            return None
        new, answered, live = self._ranks
        if len(new) * _NEW_SHARE <= self.most:
            if answered:
                return next(iter(answered.values()))
            if live:
                return self._silent_of(live)
        return next(iter(new.values()))

    def silent(self, now: float, idle: float) -> list[S]:
        """Look at all: those in which nothing came for ``idle`` seconds. Who is used is only asked
        here, so a session's silence begins with the first look that finds it."""
        ended = []
        for session in self._sessions.values():
            if session.used:
                session.used, session.seen = False, now
            elif session.seen <= now - idle:
                ended.append(session)
        return ended

    def _silent_of(self, live: OrderedDict[Hashable, S]) -> S:
        """The first that was not used since it was last looked at; the others get in line again,
        a few at a time."""
        for _ in range(_SECOND_CHANCES):
            session = next(iter(live.values()))
            if not session.used:
                return session
            session.used = False
            live.move_to_end(session.caller)
        return next(iter(live.values()))
