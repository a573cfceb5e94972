"""Real kubectls against a real cluster: the one on PATH, and the versions that lie beside it.

``KUBECTL`` names others, parted by colons. Fresh Debian machines get theirs from the package
``kubernetes-client``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.cluster import Cluster

MISSING = "kubectl"
#: Seconds that something may take to come about.
PATIENCE = 30.0


def kubectls() -> list[str]:
    """Paths of the kubectls to try: what KUBECTL says, or PATH's and the oldest and newest of its
    siblings that are named ``kubectl.<version>``."""
    if said := os.environ.get("KUBECTL"):
        return said.split(os.pathsep)
    found = shutil.which("kubectl")
    if found is None:
        return [MISSING]  # the fixture says what to do
    beside = Path(found).resolve().parent.glob("kubectl.[0-9]*")
    siblings = sorted(beside, key=lambda path: [int(part) for part in path.name.split(".")[1:]])
    return [found, *map(str, {siblings[0], siblings[-1]} if siblings else ())]


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Kubectl:
    """A kubectl that talks to the cluster. ``minor`` is its version: 20 for 1.20."""

    path: str
    server: str
    home: Path
    minor: int = 0

    def command(self, *words: str) -> list[str]:
        cut = words.index("--") if "--" in words else len(words)
        return [self.path, *words[:cut], "-s", self.server, *words[cut:]]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), "KUBECONFIG": os.devnull}

    def try_(self, *words: str, stdin: str = "") -> Outcome:
        """Run it to its end, whatever comes of it."""
        done = subprocess.run(
            self.command(*words), input=stdin, env=self.environment,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    def __call__(self, *words: str, stdin: str = "") -> str:
        """Run it; it must succeed. What it printed."""
        outcome = self.try_(*words, stdin=stdin)
        assert outcome.code == 0, f"kubectl {' '.join(words)}: {outcome.err}"
        return outcome.out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "-o", "json"))

    def refused(self, *words: str, stdin: str = "") -> str:
        """Run it; it must fail. What it complained."""
        outcome = self.try_(*words, stdin=stdin)
        assert outcome.code != 0, outcome.out
        return outcome.err


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane and a node without containers."""
    with Cluster(tmp_path_factory.mktemp("kubectl-cluster")).running() as running:
        yield running


def _minor(path: str) -> int:
    words = [path, "version", "--client", "-o", "json"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    return int(json.loads(said)["clientVersion"]["minor"].rstrip("+"))


@pytest.fixture(scope="session", params=kubectls(), ids=os.path.basename)
def client(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Kubectl:
    path: str = request.param
    if shutil.which(path) is None:
        pytest.fail(
            f"there is no {path} here: apt-get install kubernetes-client, or name one in KUBECTL"
        )
    return Kubectl(path, cluster.server, tmp_path_factory.mktemp("home"), _minor(path))


@dataclass(frozen=True)
class Room:
    """A kubectl in a namespace of its own."""

    kubectl: Kubectl
    namespace: str

    def __call__(self, *words: str, stdin: str = "") -> str:
        return self.kubectl(*self._inside(words), stdin=stdin)

    def json(self, *words: str) -> Any:
        return self.kubectl.json(*self._inside(words))

    def refused(self, *words: str, stdin: str = "") -> str:
        return self.kubectl.refused(*self._inside(words), stdin=stdin)

    def until(self, text: str, *words: str) -> str:
        """Ask until the answer holds ``text`` (until it is empty, for an empty text)."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self(*words)
            if text in answer if text else not answer:
                return answer
            assert time.monotonic() < deadline, f"{text!r} never came: {answer}"

    def command(self, *words: str) -> list[str]:
        return self.kubectl.command(*self._inside(words))

    def _inside(self, words: Sequence[str]) -> list[str]:
        cut = words.index("--") if "--" in words else len(words)
        return [*words[:cut], "-n", self.namespace, *words[cut:]]


@pytest.fixture
def room(client: Kubectl, request: pytest.FixtureRequest) -> Room:
    """A namespace of the test's own; admission makes it when something is put there."""
    test = request.node.originalname.removeprefix("test_").replace("_", "-")
    return Room(client, f"{test[:40].strip('-')}-{kubectls().index(client.path)}")
