"""``python -m bench``: all benches, or those named."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from bench.table import HEAD, markdown

SUPPORT = {"__init__", "__main__", "loopback", "table"}


def names() -> list[str]:
    here = Path(__file__).parent
    return sorted(path.stem for path in here.glob("*.py") if path.stem not in SUPPORT)


def main(asked: list[str]) -> int:
    known = names()
    unknown = [name for name in asked if name not in known]
    if unknown:
        print(f"no bench called {', '.join(unknown)}; there are: {', '.join(known)}")
        return 2
    print(markdown(HEAD))
    print(markdown("---" for _ in HEAD))
    for name in asked or known:
        for row in importlib.import_module(f"bench.{name}").rows():
            print(markdown(row.cells()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
