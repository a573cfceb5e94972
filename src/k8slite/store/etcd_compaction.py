"""Compaction by itself: history that nobody resumes from any more is given up.

Every master looks; who finds history longer than it should be compacts, and the others find that
it is done. An idle cluster costs no question.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Seconds of history that are kept, unless they hold more than ``AT_MOST`` times as many
#: revisions as are kept in any case.
KEEP_SECONDS, AT_MOST = 300.0, 5


@dataclass(slots=True)
class Compaction:
    """Decides where to compact; the newest ``keep`` revisions always stay."""

    keep: int
    done: int = 0  # compacted at least up to here
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, now: float, revision: int) -> None:
        """``revision`` was the newest at ``now``, in seconds."""
        self._marks.append((now, revision))
        while len(self._marks) > 1 and self._marks[1][0] <= now - KEEP_SECONDS:
            self._marks.popleft()

    def due(self) -> int:
        """The revision to compact at, unless somebody else compacted beyond ``slack`` of it;
        0 when there is nothing to do."""
        if not self._marks:
            return 0
        newest = self._marks[-1][1]
        old = max(self._marks[0][1], newest - AT_MOST * self.keep)
        target = min(newest - self.keep, old)
        return target if target - self.slack > self.done else 0

    @property
    def slack(self) -> int:
        """Compaction in steps of so many revisions is enough."""
        return max(1, self.keep // 2)
