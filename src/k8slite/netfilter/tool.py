"""Running the iptables tools: which of them speak to which kernel tables, and what they say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from subprocess import PIPE

from k8slite.netfilter.edge import Locked, NetfilterError, NotPermitted, Unsupported

#: What a tool's ``--version`` says in brackets: where it keeps its rules.
NFT, LEGACY = "nf_tables", "legacy"

#: Seconds after which a tool that does not end is an error.
_PATIENCE = 30.0


def find_tool(variant: str, names: Sequence[str]) -> str:
    """The path of the first of the programs that is there and of ``variant``. Raises Unsupported,
    NetfilterError."""
    for name in names:
        program = _which(name)
        if program and variant in run_tool([program, "--version"]):
            return program
    raise Unsupported(f"none of {', '.join(names)} is installed; apt install iptables")


def variant_of(name: str) -> str:
    """The variant of the program of this name; "" when it is not installed."""
    program = _which(name)
    if not program:
        return ""
    said = run_tool([program, "--version"])
    return next((variant for variant in (NFT, LEGACY) if variant in said), LEGACY)


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def run_tool(command: Sequence[str], text: str = "") -> str:
    """Run it with ``text`` as its input; what it printed. Raises NetfilterError."""
    try:
        process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
    except OSError as error:
        raise Unsupported(f"cannot run {command[0]}: {error.strerror}") from error
    # Not communicate's own timeout: with one it looks every now and then whether the end has come.
    late = threading.Timer(_PATIENCE, process.kill)
    late.daemon = True
    late.start()
    with process:
        try:
            out, err = process.communicate(text)
        finally:
            late.cancel()
    if process.returncode == -signal.SIGKILL:
        raise Locked(f"{command[0]} did not end within {_PATIENCE:g} s")
    if process.returncode == 0:
        return out
    said = " ".join(err.split()) or f"exit code {process.returncode}"
    if "ermission denied" in said or "must be root" in said:
        raise NotPermitted(f"changing iptables needs root or CAP_NET_ADMIN ({said})")
    if process.returncode == 4:  # RESOURCE_PROBLEM: somebody else's transaction came first
        raise Locked(f"{command[0]}: {said}")
    raise NetfilterError(f"{command[0]}: {said}")
