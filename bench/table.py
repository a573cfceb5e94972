"""The rows that benches yield and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HEAD = ("what", "k8slite", "beside it, same run", "goal", "reached")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; ``beside`` is the peer or floor of the same run; ``reached`` None: no goal."""

    what: str
    figure: str
    beside: str = ""
    goal: str = ""
    reached: bool | None = None

    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.reached is None else ("yes" if self.reached else "no")
        return (self.what, self.figure, self.beside, self.goal, verdict)


def markdown(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
