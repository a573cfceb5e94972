"""The command line against a real cluster, and golden outputs.

``pytest --update-golden`` writes what the commands print today into ``tests/cli/golden``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster import Cluster
from k8slite.cli.main import run

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden outputs")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def rows(self) -> list[list[str]]:
        """The cells of a table, which at least three blanks part."""
        return [re.split(r" {3,}", line.rstrip()) for line in self.lines]


Ctl = Callable[..., Outcome]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")).running() as running:
        yield running


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ctl:
    """``command("ctl", "get", "pods")``, without any kubeconfig of whoever runs the tests."""
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("KUBECONFIG", raising=False)

    def call(*words: str) -> Outcome:
        capsys.readouterr()
        code = run(list(words))
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def ctl(command: Ctl, cluster: Cluster) -> Ctl:
    """``ctl("get", "pods")`` against the cluster, the server named last as the article does."""

    def call(*words: str) -> Outcome:
        cut = words.index("--") if "--" in words else len(words)
        return command("ctl", *words[:cut], "-s", cluster.server, *words[cut:])

    return call


@pytest.fixture
def namespace(ctl: Ctl, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, emptied at its end."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    yield name
    ctl("delete", "rc,services,pods,secrets,configmaps", "--all", "-n", name, "--force")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the one that is kept under a name."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()

    return check
