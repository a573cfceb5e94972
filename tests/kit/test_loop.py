"""The loop that shares its wait."""

from __future__ import annotations

import asyncio
import socket

from k8slite.kit.loop import run_shared


async def word(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 100)


def test_asyncio_works_as_on_any_loop() -> None:
    async def main() -> bytes:
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            other.setblocking(False)
            loop = asyncio.get_running_loop()
            heard = asyncio.create_task(word(other))
            await asyncio.sleep(0)
            await loop.sock_sendall(one, b"hello")
            assert await asyncio.to_thread(len, b"threads wake it") == 15
            process = await asyncio.create_subprocess_exec(
                "echo", "hello", stdout=asyncio.subprocess.PIPE
            )
            assert (await process.communicate())[0] == b"hello\n"
            return await heard

    assert run_shared(main()) == b"hello"
