"""The article's tables, and a reading of tables that forgets what differs from run to run.

A table is read by its header: a cell belongs to the column under whose title it begins. Names drawn
at random, addresses and ages are replaced by what they are, so that what is left must be equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

Row = tuple[str, ...]

#: The article was edited by hand: a cell may begin so many characters before its title.
SLACK = 3

_FORGET = (
    (re.compile(r"\b(nginx(?:-controller)?)-[a-z0-9]{5}\b"), r"\1-*"),
    (re.compile(r"192\.168\.0\.1[0-2]"), "NODE"),
    (re.compile(r"192\.168\.3\.(?![12]\b)\d+"), "PORTAL"),
    (re.compile(r"172\.\d+\.\d+\.\d+"), "POD"),
    (re.compile(r"^(?:Less than a second|About an? \w+|\d+ (?:second|minute)s?)$"), "AGE"),
)


@dataclass(frozen=True)
class Table:
    titles: Row
    rows: tuple[Row, ...]

    @property
    def kinds_of_rows(self) -> set[Row]:
        """The different rows, once what differs from run to run is forgotten."""
        return {tuple(_forget(cell) for cell in row) for row in self.rows}

    def column(self, title: str) -> list[str]:
        place = self.titles.index(title)
        return [row[place] for row in self.rows]


def _forget(cell: str) -> str:
    for pattern, name in _FORGET:
        cell = pattern.sub(name, cell)
    return cell


def tables(text: str) -> list[Table]:
    """Every table in ``text``; a table begins with a line of titles in capitals."""
    found: list[Table] = []
    starts: list[int] = []
    titles: Row = ()
    rows: list[Row] = []
    for line in [*text.splitlines(), "END"]:
        words = [(m.start(), m.group()) for m in re.finditer(r"\S+(?: \S+)*", line)]
        if line == "END" or (words and all(re.fullmatch(r"[A-Z()]+", w) for _, w in words)):
            if titles:
                found.append(Table(titles, tuple(rows)))
            starts, titles, rows = [s for s, _ in words], tuple(w for _, w in words), []
        elif titles and words:
            rows.append(_cells(words, starts))
    return found


def _cells(words: list[tuple[int, str]], starts: list[int]) -> Row:
    cells = [""] * len(starts)
    for start, word in words:
        place = max(n for n, begin in enumerate(starts) if n == 0 or begin <= start + SLACK)
        cells[place] = word
    return tuple(cells)


def sections(transcript: str) -> list[tuple[str, str]]:
    """The transcript of commands.sh → (command, what it printed), in order."""
    parts = re.split(r"^% (.*)$", transcript, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def golden(name: str) -> list[Table]:
    return tables((Path(__file__).parent / "golden" / f"{name}.txt").read_text())
