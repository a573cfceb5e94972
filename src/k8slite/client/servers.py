"""Several servers of one cluster: whom to ask first."""

from __future__ import annotations

from collections.abc import Sequence


class Servers:
    """URLs of masters. The one that worked last is asked first, then the others in turn."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(dict.fromkeys(urls))
        self._current = 0

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def current(self) -> str:
        return self._urls[self._current]

    def order(self) -> tuple[str, ...]:
        """All of them, the current one first."""
        return self._urls[self._current :] + self._urls[: self._current]

    def worked(self, url: str) -> None:
        """``url`` answered: go on with it."""
        self._current = self._urls.index(url)

    def failed(self, url: str) -> None:
        """``url`` did not answer: the next in turn, unless somebody has gone there already."""
        if url == self.current:
            self._current = (self._current + 1) % len(self._urls)
