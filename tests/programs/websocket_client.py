"""Talks to the WebSocket servers of the tests through the proxy, by Python's websockets.

Called as `websocket_client.py URL [CA]`; prints `fine` if every answer was right, and `missing` with a reason where websockets is not
installed.
"""

import asyncio
import ssl
import sys

try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed
except ImportError as error:
    print(f"missing {error}")
    sys.exit(0)

PATIENCE = 60
url = sys.argv[1]
tls = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else None


def pattern(length):
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def connecting(**options):
    return connect(url, ssl=tls, max_size=1 << 24, proxy=None, subprotocols=["chat"], **options)


async def echoes(socket, message, expected=None):
    await socket.send(message)
    got = await asyncio.wait_for(socket.recv(), PATIENCE)
    expected = message if expected is None else expected
    assert got == expected, f"{len(expected)} came back as {len(got)}"


async def talks(**options):
    async with connecting(**options) as socket:
        assert socket.subprotocol == "chat", socket.subprotocol
        for message in ("hello", "", b"", "x" * 100_000, "\u00fc" * 70_000, pattern(1_000_000)):
            await echoes(socket, message)
        # In frames of their own.
        await echoes(socket, ["one ", "two ", "", "three"], "one two three")
        await echoes(socket, [pattern(200_000)] * 3, pattern(200_000) * 3)
        for nth in range(100):
            await echoes(socket, f"number {nth}")
        # All at once.
        await asyncio.gather(*(socket.send(pattern(nth)) for nth in range(200)))
        lengths = [len(await asyncio.wait_for(socket.recv(), PATIENCE)) for _ in range(200)]
        assert sorted(lengths) == list(range(200)), lengths
        await asyncio.wait_for(await socket.ping(b"are you there"), PATIENCE)
        await echoes(socket, "ping", "ponged")
        await socket.close(1000, "done")
        assert (socket.close_code, socket.close_reason) == (1000, "done"), socket.close_code


async def is_ended(word, code, reason):
    async with connecting() as socket:
        await socket.send(word)
        try:
            while True:
                await asyncio.wait_for(socket.recv(), PATIENCE)
        except ConnectionClosed:
            assert (socket.close_code, socket.close_reason) == (code, reason), (word, socket.close_code)


async def main():
    await talks()
    await talks(compression=None)
    await asyncio.gather(*(talks() for _ in range(3)))
    await is_ended("close 4001 because", 4001, "because")
    await is_ended("abort", 1006, "")
    print("fine")


asyncio.run(main())
