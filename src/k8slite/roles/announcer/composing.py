"""An announcer with its voice, made of the settings; and what it may leave on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from k8slite.client.base import Informers
from k8slite.config import Settings
from k8slite.decide.outside import read_peer
from k8slite.kit.clock import Clock
from k8slite.network import exabgp
from k8slite.network.exabgp import ExaBgp
from k8slite.network.speaker import LanVoice
from k8slite.network.voice import Voice
from k8slite.roles.announcer.announcer import Announcer, Portals
from k8slite.roles.announcer.telling import Recorder

#: ExaBGP's own user must be able to read it; gone with a reboot.
FOLDER = Path("/run/k8slite/bgp")


def announcer(
    settings: Settings,
    informers: Informers,
    recorder: Recorder,
    clock: Clock,
    portals: Portals,
    *,
    folder: Path = FOLDER,
) -> Callable[[], Coroutine[Any, Any, None]]:
    """What to run, until cancelled. ``settings.announce`` is arp or bgp."""
    made = Announcer(settings, informers, recorder, clock, portals)
    voice: Voice
    if settings.announce == "bgp":
        peers = [read_peer(text, settings.bgp_as) for text in settings.bgp_peer]
        voice = ExaBgp(settings.node_ip, settings.bgp_as, peers, folder, clock)
    else:
        voice = LanVoice(settings.node_ip, clock, made.heard)
    return lambda: made.run(voice)


def remove(folder: Path = FOLDER) -> list[str]:
    """Take away what was left on the host; says what."""
    removed = [f"{folder}"] if exabgp.remove(folder) else []
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # ours too; the installer has more in there
    return removed
