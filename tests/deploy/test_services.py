"""A service is kept running: by systemd's unit, or by the init script's own loop."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from k8slite.deploy.units import LOGS, RUN, Service, init_script, systemd_unit

T = TypeVar("T")

SERVICE = Service("k8slite-thing", ("/opt/k8slite/x/thing", "--a=b c", "100%", "$HOME"), "A thing")


def test_the_unit_starts_again_whatever_happens_and_spares_containers() -> None:
    unit = systemd_unit(Service("k8slite", SERVICE.words, "A thing", after=("docker",)))
    assert 'ExecStart=/opt/k8slite/x/thing "--a=b c" 100%% $$HOME\n' in unit
    for line in ("Restart=always", "KillMode=process", "StartLimitIntervalSec=0"):
        assert f"{line}\n" in unit
    assert "After=network-online.target docker.service\n" in unit


def test_the_script_has_what_run_levels_ask_for_and_is_plain_sh() -> None:
    script = init_script(Service("k8slite", SERVICE.words, "A thing", after=("docker",)))
    assert "# Provides:          k8slite\n" in script
    assert "# Should-Start:      $time docker\n" in script
    assert "exec /opt/k8slite/x/thing '--a=b c' 100% '$HOME'\n" in script
    for shell in (["sh", "-n"], ["busybox", "sh", "-n"], ["bash", "--posix", "-n"]):
        subprocess.run(shell, input=script, text=True, check=True)


class Running:
    """The init script of a service, moved into a folder of its own."""

    def __init__(self, folder: Path, words: tuple[str, ...]) -> None:
        self.folder = folder
        self.script = folder / "k8slite-thing"
        text = init_script(Service("k8slite-thing", words, "A thing"))
        text = text.replace("/etc/init.d/k8slite-thing", shlex.quote(str(self.script)))
        text = text.replace(RUN, f"{folder}/run").replace(LOGS, f"{folder}/log")
        self.script.write_text(text)
        self.script.chmod(0o755)

    def __call__(self, verb: str) -> int:
        words = [str(self.script), verb]
        return subprocess.run(words, check=False, capture_output=True, timeout=60).returncode

    @property
    def log(self) -> str:
        path = self.folder / "log/k8slite-thing.log"
        return path.read_text() if path.exists() else ""

    def pid(self, kind: str = "child") -> int:
        """Of what is on record; never 0, which to kill is to kill the tests."""

        def recorded() -> int:
            try:
                return int((self.folder / f"run/k8slite-thing.{kind}").read_text().split()[0])
            except (FileNotFoundError, ValueError, IndexError):
                return 0

        return until(recorded)

    def processes(self) -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in line:
                found.append(line)
        return found


def until(condition: Callable[[], T]) -> T:
    """What it gives, once that is true."""
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    program = tmp_path / "thing.sh"
    program.write_text("trap 'echo bye; exit 0' TERM\necho begun\nwhile :; do sleep 0.1; done\n")
    made = Running(tmp_path, ("sh", str(program)))
    yield made
    made("stop")


def test_start_keeps_it_running_and_stop_leaves_nothing(running: Running) -> None:
    assert running("status") == 3
    assert running("start") == 0
    until(lambda: "begun" in running.log)
    pid = running.pid()
    assert running("status") == 0
    assert running("start") == 0
    assert running.pid() == pid, "started twice"
    assert running("stop") == 0
    assert "bye" in running.log
    assert running("status") == 3
    until(lambda: running.processes() == [])
    assert list((running.folder / "run").iterdir()) == []


def test_what_is_killed_comes_back(running: Running) -> None:
    running("start")
    until(lambda: running.log.count("begun") == 1)
    os.kill(running.pid(), signal.SIGKILL)
    until(lambda: running.log.count("begun") == 2)


def test_a_loop_that_was_killed_leaves_no_second_process_behind(running: Running) -> None:
    text = running.script.read_text().replace("/opt/k8slite/*", "sh*")
    running.script.write_text(text)
    running("start")
    until(lambda: "begun" in running.log)
    orphan = running.pid()
    os.kill(running.pid("pid"), signal.SIGKILL)
    until(lambda: running("status") == 3)
    running("start")
    until(lambda: running.log.count("begun") == 2)
    assert not Path(f"/proc/{orphan}").exists()
    assert "bye" in running.log
    assert running("stop") == 0
    until(lambda: running.processes() == [])


def test_restart_is_a_new_process(running: Running) -> None:
    running("start")
    until(lambda: "begun" in running.log)
    first = running.pid()
    assert running("restart") == 0
    until(lambda: running.log.count("begun") == 2)
    assert running.pid() != first
