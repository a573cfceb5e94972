"""Plug-ins are found through entry points, used without further ado, and chosen by the policy."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_plane import Plane, pod, simulate

from k8slite.api.kinds import POD
from k8slite.decide.scheduling import PolicyError

MODULE = """
from k8slite.decide.scheduling import node_local

@node_local
def no_b(pod, node, snapshot):
    return "not on b" if node.name == "b" else None

def like_c(pod, node, snapshot):
    return 10 if node.name == "c" else 0
"""


def install(folder: Path, predicate: str = "calendar_rules:no_b") -> None:
    """As pip leaves a package behind."""
    (folder / "calendar_rules.py").write_text(MODULE)
    info = folder / "calendar_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: calendar-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[k8slite.scheduler.predicates]\nNoB = {predicate}\n"
        "[k8slite.scheduler.priorities]\nLikeC = calendar_rules:like_c\n"
    )


def test_installed_plug_ins_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    async def play(plane: Plane) -> None:
        scheduler = plane.scheduler()
        plane.start(scheduler.run())
        await plane.add_node("b")
        await plane.client.create(pod("p"))
        await plane.until(lambda: plane.events("FailedScheduling"))
        assert plane.events("FailedScheduling") == ["0/1 nodes fit: 1 NoB (not on b)"]
        await plane.add_node("c")
        await plane.add_node("d")
        await plane.until(lambda: plane.all(POD)[0].spec.node_name == "c")

    simulate(play)


def test_a_policy_file_chooses_among_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    policy = tmp_path / "policy.json"
    policy.write_text(
        '{"kind": "Policy", "predicates": [{"name": "PodFitsResources"}],'
        ' "priorities": [{"name": "LikeC", "weight": 5}]}'
    )

    async def play(plane: Plane) -> None:
        plane.start(plane.scheduler(scheduler_policy=policy).run())
        await plane.add_node("b")
        await plane.client.create(pod("p"))
        await plane.until(lambda: plane.all(POD)[0].spec.node_name == "b")

    simulate(play)


def test_a_plug_in_that_cannot_be_loaded_stops_the_start_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "calendar_rules:absent")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def play(plane: Plane) -> None:
        with pytest.raises(PolicyError, match=r"plug-in NoB \(calendar_rules:absent\)"):
            plane.scheduler()

    simulate(play)
