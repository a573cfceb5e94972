"""The process around the roles: signals, descriptors, and the one line when it cannot start."""

from __future__ import annotations

import asyncio
import errno
import resource
import signal
import sys

import structlog

from k8slite import log as logs
from k8slite.agent.roles import run
from k8slite.config import Settings
from k8slite.kit.clock import Clock
from k8slite.kit.loop import run_shared
from k8slite.pki.files import PkiError
from k8slite.preflight import BadSettings, HostTaken, resolve
from k8slite.roles.apiserver.server import PortInUse
from k8slite.roles.kubelet.identity import JoinRefused
from k8slite.store.base import StoreCorrupt, StoreUnavailable

log = structlog.get_logger()


def _first(error: BaseException) -> BaseException:
    """What went wrong first, out of however many groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _until_told(settings: Settings) -> None:
    """Run, and end in good order on SIGTERM or SIGINT."""
    task = asyncio.current_task()
    assert task is not None
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stopping.set()
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await run(settings, Clock())
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise


def _raise_descriptor_limit() -> None:
    """The proxy needs a descriptor or two a connection: take all that the kernel grants us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


#: The disk's own words for not taking any more.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
#: What may stand in the way of a start; the message is for whoever typed the command.
EXPECTED = (
    StoreCorrupt,
    StoreUnavailable,
    PortInUse,
    PkiError,
    PermissionError,
    BadSettings,
    HostTaken,
    JoinRefused,
)


def main(settings: Settings) -> int:
    """Run until told to stop; the exit code. What stands in the way of a start is one line."""
    try:
        logs.configure(settings.log_level)
        _raise_descriptor_limit()
        run_shared(_until_told(resolve(settings)))
    except (BaseExceptionGroup, ValueError, OSError, *EXPECTED) as error:
        first = _first(error)
        if isinstance(first, OSError) and first.errno in _DISK:
            first = StoreUnavailable(
                f"--data-dir {settings.data_dir} cannot be written to ({first.strerror}): make "
                "room on its disk, or choose another folder"
            )
        if not isinstance(first, (ValueError, *EXPECTED)):
            raise
        print(f"k8slite: {first}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
