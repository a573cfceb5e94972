"""The lab for people: ``make lab``, and ``make lab-shell HOST=node1`` beside it.

python -m tests.lab                 the machines, until Ctrl-C
python -m tests.lab shell [HOST]    a shell on one of them (conf when none is named)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

from tests.lab.lab import Lab, lab
from tests.lab.registry import Registry
from tests.lab.root import PASSWORD
from tests.lab.site import ROOT

#: Who is up: name → the command line of a shell there.
STATE = ROOT / ".k8slite" / "lab.json"


def main(words: list[str]) -> int:
    if words[:1] == ["shell"]:
        return shell(words[1] if len(words) > 1 else "conf")
    if STATE.exists() and Path(f"/proc/{json.loads(STATE.read_text())['pid']}").exists():
        print(f"lab: it runs already (pid {json.loads(STATE.read_text())['pid']}): make lab-shell")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        run()
    return 0


def run() -> None:
    print("... booting node1, node2, node3 and conf", flush=True)
    with lab() as made:
        registry = Registry(made.conf)
        registry.start()
        for image in ("busybox:latest", "nginx:latest"):
            registry.push(made.nodes[0], image)
        shells = {
            name: host.inside("sh", "-c", "cd; exec bash -i") for name, host in made.hosts.items()
        }
        STATE.parent.mkdir(exist_ok=True)
        STATE.write_text(json.dumps({"pid": os.getpid(), "shells": shells}))
        try:
            print(greeting(made), flush=True)
            threading.Event().wait()
        finally:
            STATE.unlink()
            print("... taking the machines down", flush=True)


def greeting(made: Lab) -> str:
    rows = [f"  {host.name:6} {host.address:14} {_role(host.name)}" for host in made.hosts.values()]
    return "\n".join(
        [
            *rows,
            "",
            "In another terminal:",
            "  make lab-shell                 on conf, as root; from there ssh core@node1",
            "  make lab-shell HOST=node1      on a node, as root",
            "",
            f"core's password for sudo is {PASSWORD!r} (not asked for). On conf:",
            f"  k8slite up -c {ROOT}/examples/article/config-default.sh",
            "",
            "Ctrl-C takes all of it down, without a trace.",
        ]
    )


def _role(name: str) -> str:
    if name == "conf":
        return "k8slite of this checkout; a registry at conf:5000 with busybox and nginx"
    return "Docker, busybox and nginx; nothing of k8slite, no Python"


def shell(name: str) -> int:
    """Become a shell on that machine; the exit code when there is none."""
    if not STATE.exists():
        print("lab: it is not up: make lab")
        return 1
    shells = json.loads(STATE.read_text())["shells"]
    if name in shells:
        words = shells[name]
        words.insert(words.index("-i") + 1, f"TERM={os.environ.get('TERM', 'dumb')}")
        os.execvp(words[0], words)
    print(f"lab: no machine {name!r}: {', '.join(shells)}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
