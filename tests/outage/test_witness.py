"""The witness against one master on the embedded store that dies again and again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.lab.docker_host import inside
from tests.lab.network import Namespace, Switch
from tests.lab.site import K8SLITE
from tests.outage.history import ACKNOWLEDGED, UNKNOWN, violations
from tests.outage.witness import Witness, hold

pytestmark = pytest.mark.lab
SERVER = "http://127.0.0.1:8080"


class Master:
    """`k8slite agent --roles a` on SQLite, in a network of its own."""

    def __init__(self, place: Namespace, directory: Path) -> None:
        self.place = place
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        self._process = self.place.start(
            *(K8SLITE, "agent", "--roles", "a", "--data-dir", str(self.directory / "data")),
            *flags,
            log=self.directory / "agent.log",
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    with Switch() as switch, Namespace("witness") as place:
        switch.connect(place, "192.168.0.10/24")
        made = Master(place, tmp_path)
        yield made
        made.kill()


def acknowledged(witness: Witness, more: int) -> None:
    """Wait for so many more writes."""
    count = len(witness.history.acknowledged())
    deadline = time.monotonic() + 30
    while len(witness.history.acknowledged()) < count + more:
        assert time.monotonic() < deadline, "no writes are acknowledged"
        time.sleep(0.05)


def test_a_master_that_is_killed_thrice_keeps_what_it_acknowledged(master: Master) -> None:
    master.start()
    witness = Witness([SERVER], "outage")
    with hold(witness, partial(inside, master.place)):
        for _ in range(3):
            acknowledged(witness, 30)
            master.kill()
            master.start()
    history = witness.history
    assert violations(history) == []
    outcomes = {write.outcome for write in history.writes}
    assert ACKNOWLEDGED in outcomes
    assert len(outcomes) > 1, f"the kills did not show: {outcomes}, {UNKNOWN} expected"
    assert len(history.seen) > 60


def test_a_master_that_forgets_is_found_out(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory store keeps no promise beyond its process: the checker must say so."""
    monkeypatch.setattr("tests.outage.witness.CATCH_UP", 1.0)
    master.start("--store", "memory")
    witness = Witness([SERVER], "outage")
    with hold(witness, partial(inside, master.place)):
        acknowledged(witness, 60)
        master.kill()
        master.start("--store", "memory")
        acknowledged(witness, 20)
    found = violations(witness.history)
    assert any("lost: " in line for line in found), found
