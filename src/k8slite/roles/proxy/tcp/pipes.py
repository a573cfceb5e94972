"""The kernel's buffers between two sockets, for what goes by splice(2)."""

from __future__ import annotations

import fcntl
import os

#: What a pipe may hold.
PIPE_BYTES = 1_048_576

_SPARE = 64


class Pipe:
    """The kernel buffer between two sockets."""

    __slots__ = ("read", "write")

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.fcntl(self.write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # over the user's share of pipe memory: the default size does

    def close(self) -> None:
        os.close(self.read)
        os.close(self.write)


class Pipes:
    """Empty pipes kept for the next flow that needs one. ``ceiling`` is the first descriptor that
    is not for clients (``descriptors``)."""

    def __init__(self, ceiling: int = 1 << 30) -> None:
        self._ceiling = ceiling
        self._spare: list[Pipe] = []

    def take(self) -> Pipe | None:
        """A pipe, or None when there are no descriptors left for one."""
        if self._spare:
            return self._spare.pop()
        try:
            pipe = Pipe()
        except OSError:
            return None
        if pipe.write < self._ceiling:
            return pipe
        pipe.close()
        return None

    def give(self, pipe: Pipe, *, empty: bool) -> None:
        if empty and len(self._spare) < _SPARE:
            self._spare.append(pipe)
        else:
            pipe.close()

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()
