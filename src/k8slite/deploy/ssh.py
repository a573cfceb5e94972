"""The edge to other machines: logins, commands as root, and files, over SSH.

Keys come from ssh-agent, ``~/.ssh`` or ``--identity``; ``~/.ssh/config`` is honoured. A host key
that is known must be the one; that of a host seen for the first time is accepted, told and written
down (OpenSSH's ``accept-new``). sudo's password travels on standard input only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from k8slite.deploy.cluster import NodeSpec
from k8slite.kit.clock import Clock

#: Seconds for a connection and login; for a host that has fallen silent; for an ordinary command.
LOGIN_TIMEOUT = 15.0
SILENCE = 20.0
COMMAND_TIMEOUT = 300.0
#: Logins at one time.
AT_ONCE = 16
_CHUNK = 256 << 10


class SshError(Exception):
    """A host that cannot be worked with; the message says why and what to do."""


class Lost(SshError):
    """The connection broke: what a command has done meanwhile is not known."""


class Failed(SshError):
    """A command ran to its end and failed. ``said`` are its own last words."""

    def __init__(self, login: str, what: str, code: int, said: str) -> None:
        super().__init__(f"{login}: {what} failed (exit code {code}){f': {said}' if said else ''}")
        self.code = code
        self.said = said


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return lines[-1].strip() if lines else ""


#: Asks for the sudo password of ``user@address``; None when nobody can be asked.
AskPassword = Callable[[str], Awaitable[str | None]]


@dataclass(slots=True)
class Access:
    """How to log in everywhere."""

    identity: Path | None = None
    known_hosts: Path = field(default_factory=lambda: Path("~/.ssh/known_hosts").expanduser())
    port: int | None = None
    ask_password: AskPassword | None = None
    learn: bool = True  # write new host keys down


class _Client(asyncssh.SSHClient):
    """Decides about host keys that no known_hosts file vouches for."""

    def __init__(self, known: bool) -> None:
        self._known = known
        self.fresh: asyncssh.SSHKey | None = None

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        if self._known:  # it has another key than before
            return False
        self.fresh = key
        return True


class Host:
    """A host that one is logged in to. ``seen_from`` is our address as the host sees it."""

    def __init__(
        self, node: NodeSpec, connection: asyncssh.SSHClientConnection, clock: Clock
    ) -> None:
        self.node = node
        self.fingerprint = ""  # of a host key that was new to us
        self.seen_from = ""
        self._connection = connection
        self._clock = clock
        self._prefix: tuple[str, ...] = ()
        self._password: bytes = b""

    async def become_root(self, ask: AskPassword | None) -> None:
        """Find out how commands run as root here. Raises SshError when they cannot."""
        hello = await self._run(
            'echo "@ $SSH_CONNECTION"; echo "@ $(id -u)"; '
            "command -v sudo >/dev/null || echo '@ none'; "
            "sudo -n true >/dev/null 2>&1 && echo '@ free'",
        )
        words = [line[2:].strip() for line in hello.out.splitlines() if line.startswith("@ ")]
        if len(words) < 2:
            raise SshError(
                f"{self.node.login}: its shell answers {hello.last_words!r} and not what it is "
                "asked: a login shell as /bin/sh or /bin/bash is needed"
            )
        self.seen_from = (words[0].split() or [""])[0]
        if words[1] == "0":
            self._prefix = ()
        elif "free" in words:
            self._prefix = ("sudo", "-n", "--")
        elif "none" in words:
            raise SshError(
                f"{self.node.login}: is not root and has no sudo: install sudo, or log in as root"
            )
        else:
            await self._with_password(ask)

    async def _with_password(self, ask: AskPassword | None) -> None:
        login = self.node.login
        password = await ask(login) if ask else None
        if password is None:
            raise SshError(
                f"{login}: sudo asks for a password: give --sudo-password-file, or allow "
                "passwordless sudo (NOPASSWD)"
            )
        self._prefix = ("sudo", "-k", "-S", "-p", "", "--")
        self._password = password.encode() + b"\n"
        # Alone on standard input: a second try of sudo's reads the end and gives up.
        done = await self._run(shlex.join([*self._prefix, "true"]), self._password)
        if done.code:
            raise SshError(
                f"{login}: sudo does not take the password, or does not allow this: "
                f"{done.last_words}"
            )

    async def root(
        self,
        script: str,
        stdin: bytes = b"",
        *,
        what: str = "",
        check: bool = True,
        timeout: float = COMMAND_TIMEOUT,
        line: Callable[[str], None] | None = None,
    ) -> Done:
        """Run a ``sh`` script as root. Raises Failed (unless ``check`` is off) and Lost."""
        command = shlex.join([*self._prefix, "sh", "-c", script])
        done = await self._run(command, self._password + stdin, timeout=timeout, line=line)
        if done.code and check:
            raise Failed(self.node.login, what or script[:60], done.code, done.last_words)
        return done

    async def send(
        self, path: Path, script: str, *, what: str, progress: Callable[[int], None] | None = None
    ) -> None:
        """Feed a file to a script that runs as root. ``progress`` hears of bytes sent."""
        command = shlex.join([*self._prefix, "sh", "-c", script])
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                process = await self._connection.create_process(command, encoding=None)
                errors = asyncio.ensure_future(process.stderr.read())
                with contextlib.suppress(BrokenPipeError, ConnectionError):
                    process.stdin.write(self._password)
                    with path.open("rb") as file:
                        while chunk := file.read(_CHUNK):
                            process.stdin.write(chunk)
                            await process.stdin.drain()
                            if progress:
                                progress(len(chunk))
                    process.stdin.write_eof()
                await process.wait_closed()
                said = (await errors).decode(errors="replace").strip()
        except TimeoutError:
            raise Lost(f"{self.node.login}: {what} did not end in {COMMAND_TIMEOUT:g} s") from None
        except (asyncssh.Error, OSError) as error:
            raise self._lost(what, error) from None
        if process.exit_status is None:
            raise self._lost(what)
        if process.exit_status:
            last = said.splitlines()[-1] if said else ""
            raise Failed(self.node.login, what, process.exit_status, last)

    async def _run(
        self,
        command: str,
        stdin: bytes = b"",
        *,
        timeout: float = COMMAND_TIMEOUT,
        line: Callable[[str], None] | None = None,
    ) -> Done:
        try:
            async with asyncio.timeout(timeout):
                process = await self._connection.create_process(command, encoding=None)
                errors = asyncio.ensure_future(process.stderr.read())
                with contextlib.suppress(BrokenPipeError, ConnectionError):
                    process.stdin.write(stdin)
                    process.stdin.write_eof()
                output: list[str] = []
                async for raw in process.stdout:
                    text = raw.decode(errors="replace")
                    output.append(text)
                    if line and text:
                        line(text.rstrip("\n"))
                await process.wait_closed()
                said = (await errors).decode(errors="replace")
        except TimeoutError:
            raise Lost(f"{self.node.login}: no end of a command in {timeout:g} s") from None
        except (asyncssh.Error, OSError) as error:
            raise self._lost("a command", error) from None
        if process.exit_status is None:
            raise self._lost("a command")
        return Done(process.exit_status, "".join(output), said)

    def _lost(self, what: str, error: Exception | None = None) -> Lost:
        why = f" ({error})" if error and str(error) else ""
        return Lost(
            f"{self.node.login}: the connection broke during {what}{why}: run the same again"
        )

    async def close(self) -> None:
        self._connection.close()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2):
                await self._connection.wait_closed()


class Hosts:
    """Logins to many hosts. Leaving closes them all."""

    def __init__(self, access: Access, clock: Clock) -> None:
        self._access = access
        self._clock = clock
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._asking = asyncio.Lock()
        self._open: list[Host] = []

    async def connect(self, node: NodeSpec) -> Host:
        """Log in and find the way to root. Raises SshError."""
        async with self._gate:
            host = await self._login(node)
        self._open.append(host)
        await host.become_root(self._ask)
        return host

    async def all(self, nodes: Sequence[NodeSpec]) -> dict[str, Host | SshError]:
        """Log in to all of them at once: address → host, or why not."""

        async def one(node: NodeSpec) -> Host | SshError:
            try:
                return await self.connect(node)
            except SshError as error:
                return error

        answers = await asyncio.gather(*(one(node) for node in nodes))
        return {node.address: answer for node, answer in zip(nodes, answers, strict=True)}

    async def close(self) -> None:
        await asyncio.gather(*(host.close() for host in self._open))
        self._open.clear()

    async def _ask(self, login: str) -> str | None:
        """One question at a time, however many hosts have one."""
        async with self._asking:
            return await self._access.ask_password(login) if self._access.ask_password else None

    async def _login(self, node: NodeSpec) -> Host:
        access = self._access
        known_hosts = _known_hosts(access.known_hosts)
        known = _is_known(known_hosts, node.address, access.port)
        clients: list[_Client] = []

        def client() -> _Client:
            clients.append(_Client(known))
            return clients[-1]

        options: dict[str, object] = {}
        if node.user:
            options["username"] = node.user
        if access.identity is not None:
            options["client_keys"] = [str(access.identity)]
        if access.port is not None:
            options["port"] = access.port
        try:
            async with asyncio.timeout(LOGIN_TIMEOUT):
                connection = await asyncssh.connect(
                    node.address,
                    client_factory=client,
                    known_hosts=known_hosts,
                    preferred_auth="publickey",
                    keepalive_interval=SILENCE / 4,
                    keepalive_count_max=4,
                    encryption_algs="^aes128-gcm@openssh.com",
                    **options,
                )
        except (asyncssh.Error, OSError, TimeoutError, ValueError) as error:
            raise SshError(_why_not(node, error, access)) from None
        host = Host(node, connection, self._clock)
        if clients and clients[-1].fresh is not None:
            key = clients[-1].fresh
            host.fingerprint = f"{key.get_algorithm()} {key.get_fingerprint()}"
            if access.learn:
                _learn(access, node.address, key)
        return host


def _known_hosts(file: Path) -> bytes:
    """The user's and the system's known_hosts together."""
    found = []
    for path in (file, Path("/etc/ssh/ssh_known_hosts")):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return b"\n".join(found)


def _is_known(known_hosts: bytes, address: str, port: int | None) -> bool:
    try:
        match = asyncssh.match_known_hosts(known_hosts, address, address, port)
    except ValueError:
        return True  # what cannot be read may have been about this host
    return bool(match[0] or match[1])


def _learn(access: Access, address: str, key: asyncssh.SSHKey) -> None:
    """Write a host's key down, as OpenSSH does."""
    place = address if access.port in (None, 22) else f"[{address}]:{access.port}"
    line = f"{place} {key.export_public_key().decode().strip()}\n"
    path = access.known_hosts
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(("" if not text or text.endswith("\n") else "\n") + line)


def _why_not(node: NodeSpec, error: Exception, access: Access) -> str:
    """A login that failed, in words with the mend."""
    login = node.login
    if isinstance(error, TimeoutError):
        return f"{login}: no answer within {LOGIN_TIMEOUT:g} s: is it on, and its sshd reachable?"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return (
            f"{login}: its host key is not the one in {access.known_hosts}: somebody else may be "
            f"answering there. If the host was set up anew: ssh-keygen -R {node.address}"
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return f"{login}: does not accept our key: ssh-copy-id {login}, or give --identity"
    if isinstance(error, asyncssh.KeyEncryptionError | asyncssh.KeyImportError):
        return (
            f"{login}: the key {access.identity or ''} cannot be used ({error}): "
            "if it has a passphrase, ssh-add it first"
        )
    if isinstance(error, asyncssh.ConnectionLost):
        return f"{login}: hung up during login: is that an SSH server?"
    if isinstance(error, OSError):
        why = os.strerror(error.errno) if error.errno else str(error)
        return f"{login}: cannot be reached: {why}: is it on, and its address right?"
    return f"{login}: no login: {error}"


@contextlib.asynccontextmanager
async def hosts(access: Access, clock: Clock) -> AsyncIterator[Hosts]:
    opened = Hosts(access, clock)
    try:
        yield opened
    finally:
        await opened.close()
