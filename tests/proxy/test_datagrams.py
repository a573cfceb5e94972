"""What every way to move datagrams keeps: bytes, order, addresses, and who is who."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.netfilter.sites import Site

from k8slite.roles.proxy.udp.datagrams import SLOTS, DatagramIO, SingleDatagrams
from k8slite.roles.proxy.udp.mmsg import BatchedDatagrams

WAYS: dict[str, Callable[[], DatagramIO]] = {
    "batched": BatchedDatagrams,
    "batched, none joined": lambda: BatchedDatagrams(join=False),
    "batched, IPv4": lambda: BatchedDatagrams(dual=False),
    "single": SingleDatagrams,
}
SOL_UDP, UDP_SEGMENT = 17, 103


@pytest.fixture(params=WAYS)
def io(request: pytest.FixtureRequest) -> DatagramIO:
    return WAYS[request.param]()


class Parties:
    """A client, a listener with what it knows of the client, and an endpoint, all on loopback."""

    def __init__(self, io: DatagramIO, stack: ExitStack, host: str = "127.0.0.1") -> None:
        self.io = io
        self._stack = stack
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = stack.enter_context(io.listen())
        self.host, self.port = host, self.listener.getsockname()[1]
        self.endpoint = self.socket()
        self.endpoint.bind((host, 0))
        self.client = self.socket()
        self.client.connect((host, self.port))
        self.upstream = stack.enter_context(io.connect(self.endpoint.getsockname()[:2]))

    def socket(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(self._family, socket.SOCK_DGRAM))
        sock.settimeout(5)
        return sock

    def forward(self) -> list[object]:
        """Take what clients sent and send it on. Returns who sent each datagram."""
        select.select([self.listener], [], [], 5)
        callers, sizes = self.io.take(self.listener)
        assert len(callers) == len(sizes)
        self.io.forward(self.upstream.fileno(), range(len(callers)))
        return list(callers)

    def answer(self, caller: object) -> tuple[int, int]:
        select.select([self.upstream], [], [], 5)
        count, size, _ = self.io.answer(
            self.upstream.fileno(),
            self.listener,
            self.io.reply(caller),  # type: ignore[arg-type]
        )
        self.io.close()
        return count, size


@pytest.fixture
def parties(io: DatagramIO) -> Iterator[Parties]:
    with ExitStack() as stack:
        yield Parties(io, stack)


MESSAGES = {
    "one": [b"hello"],
    "equal": [os.urandom(64) for _ in range(SLOTS)],
    "unequal": [os.urandom(1 + number * 37) for number in range(40)],
    "empty": [b"", b"", b"x", b""],
    "as long as an Ethernet frame": [os.urandom(1_472) for _ in range(SLOTS)],
    "longer": [os.urandom(9_000) for _ in range(8)],
    "longest": [os.urandom(65_507)],
}


@pytest.mark.parametrize("messages", MESSAGES.values(), ids=MESSAGES)
def test_datagrams_arrive_as_they_were_sent_both_ways(
    parties: Parties, messages: list[bytes]
) -> None:
    for message in messages:
        parties.client.send(message)
    callers = parties.forward()
    assert len(callers) == len(messages)
    assert [parties.endpoint.recv(70_000) for _ in messages] == messages
    for message in messages:
        parties.endpoint.sendto(message, parties.upstream.getsockname())
    assert parties.answer(callers[0]) == (len(messages), sum(map(len, messages)))
    assert [parties.client.recv(70_000) for _ in messages] == messages


def test_joined_datagrams_of_a_client_and_an_endpoint_arrive_apart(parties: Parties) -> None:
    """Quick senders hand the kernel many in one, and it may hand them on like that."""
    parts = [bytes([number]) * 500 for number in range(9)] + [b"the last is shorter"]
    for sender in (parties.client, parties.endpoint):
        sender.setsockopt(SOL_UDP, UDP_SEGMENT, 500)
    parties.client.send(b"".join(parts))
    heard = 0
    while heard < len(parts):
        callers = parties.forward()
        while select.select([parties.endpoint], [], [], 0.0)[0]:
            assert parties.endpoint.recv(2_000) == parts[heard]
            heard += 1
    parties.endpoint.sendto(b"".join(parts), parties.upstream.getsockname())
    parties.answer(callers[0])
    assert [parties.client.recv(2_000) for _ in parts] == parts


def test_callers_are_told_apart_by_who_they_are_and_whom_they_addressed(io: DatagramIO) -> None:
    with ExitStack() as stack:
        parties = Parties(io, stack)
        others = [parties.socket() for _ in range(3)]
        for number, sock in enumerate(others):
            sock.bind(("127.0.0.1", 0))
            sock.sendto(b"x", (f"127.0.0.{1 + number}", parties.port))
        others[0].sendto(b"again", ("127.0.0.1", parties.port))
        others[0].sendto(b"elsewhere", ("127.0.0.9", parties.port))
        callers = parties.forward()
        assert callers[3] == callers[0]
        assert len(set(callers)) == 4
        for place, sender, local in (
            (0, others[0], "127.0.0.1"), (1, others[1], "127.0.0.2"), (4, others[0], "127.0.0.9"),
        ):  # fmt: skip
            origin = io.origin(callers[place])  # type: ignore[arg-type]
            assert origin == (sender.getsockname(), local)


def test_an_answer_leaves_by_the_address_that_the_client_used(parties: Parties) -> None:
    asker = parties.socket()
    asker.connect(("127.0.0.77", parties.port))  # hears nobody else
    asker.send(b"who")
    [caller] = parties.forward()
    parties.endpoint.sendto(b"me", parties.upstream.getsockname())
    parties.answer(caller)
    assert asker.recv(100) == b"me"


@pytest.mark.parametrize("io", ["batched", "single"], indirect=True)
def test_ipv6_is_spoken_on_the_same_port(io: DatagramIO) -> None:
    with ExitStack() as stack:
        parties = Parties(io, stack, "::1")
        parties.client.send(b"six")
        [caller] = parties.forward()
        assert parties.endpoint.recv(100) == b"six"
        origin = io.origin(caller)  # type: ignore[arg-type]
        assert origin == (parties.client.getsockname()[:2], "::1")
        parties.endpoint.sendto(b"seven", parties.upstream.getsockname())
        parties.answer(caller)
        assert parties.client.recv(100) == b"seven"


def test_answers_to_many_clients_go_out_together(io: DatagramIO) -> None:
    with ExitStack() as stack:
        parties = Parties(io, stack)
        clients = []
        for number in range(SLOTS + 10):
            client = parties.socket()
            client.connect(("127.0.0.1", parties.port))
            client.send(b"%d" % number)
            clients.append(client)
        callers = parties.forward() + parties.forward()
        for number, caller in enumerate(callers):
            parties.endpoint.sendto(b"to %d" % number, parties.upstream.getsockname())
            select.select([parties.upstream], [], [], 5)
            reply = io.reply(caller)  # type: ignore[arg-type]
            assert io.answer(parties.upstream.fileno(), parties.listener, reply)[0] == 1
        io.close()
        for number, client in enumerate(clients):
            assert client.recv(100) == b"to %d" % number


def test_a_dead_endpoint_is_told_of_when_sending_and_when_hearing(parties: Parties) -> None:
    parties.endpoint.close()
    parties.client.send(b"1")
    parties.forward()
    parties.client.send(b"2")
    parties.client.send(b"3")
    with pytest.raises(ConnectionRefusedError):
        parties.forward()
    parties.client.send(b"4")
    [caller] = parties.forward()
    with pytest.raises(ConnectionRefusedError):
        parties.answer(caller)


def test_what_does_not_fit_the_path_as_one_goes_apart() -> None:
    """An MTU smaller than the datagrams: they leave in fragments, and not joined."""
    messages = [os.urandom(1_400) for _ in range(5)]

    async def story() -> None:
        for new_io in WAYS.values():
            with ExitStack() as stack:
                parties = Parties(new_io(), stack)
                for message in messages:
                    parties.client.send(message)
                callers = parties.forward()
                assert [parties.endpoint.recv(2_000) for _ in messages] == messages
                for message in messages:
                    parties.endpoint.sendto(message, parties.upstream.getsockname())
                parties.answer(callers[0])
                assert [parties.client.recv(2_000) for _ in messages] == messages

    with Site("narrow") as site:
        site.ip("link", "set", "lo", "mtu", "1280")
        site.do(story())
