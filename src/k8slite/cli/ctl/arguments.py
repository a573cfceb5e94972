"""kubectl's ways to write flags, turned into the ones that the parser knows.

``--watch=true``, ``-o=json``, ``-w=false``, and flags whose value may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: Flags that are on or off.
SWITCHES = frozenset(
    (
        "-A", "-i", "-t", "-w", "--all", "--all-namespaces", "--client", "--command",
        "--containers", "--create-external-load-balancer", "--endpoints", "--follow", "--force",
        "--ignore-not-found", "--insecure-skip-tls-verify", "--minify", "--no-headers", "--now",
        "--once", "--overwrite", "--previous", "--raw", "--recursive", "--rollback", "--show-all",
        "--show-labels", "--stdin", "--timestamps", "--tty", "--wait", "--watch", "--watch-only",
    )
)  # fmt: skip
#: Flags whose value may be left out, and what that means.
_IMPLIED = {"--dry-run": "client", "--cascade": "background", "--validate": "true"}
#: Switches that are on unless they are turned off.
_ON = frozenset(("--wait",))

_LONG = re.compile(r"(--[a-z-]+|-[A-Za-z])=(.*)", re.DOTALL)
_TRUE, _FALSE = ("true", "1", "t"), ("false", "0", "f")


def normalised(words: Sequence[str]) -> list[str]:
    """What stands after ``--`` is the container's and stays as it is."""
    cut = words.index("--") if "--" in words else len(words)
    return [*_flags(words[:cut]), *words[cut:]]


def _flags(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        match = _LONG.fullmatch(word)
        if match is None:
            yield f"{word}={_IMPLIED[word]}" if word in _IMPLIED else word
            continue
        flag, value = match.groups()
        if flag in SWITCHES and value.lower() in _TRUE:
            yield flag
        elif flag in SWITCHES and value.lower() in _FALSE:
            if flag in _ON:
                yield f"--no-{flag[2:]}"
        elif len(flag) == 2:
            yield from (flag, value)
        else:
            yield word
