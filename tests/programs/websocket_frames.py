"""Python's websockets: says a few things to an echo, is silent for a while, and sends more than it may."""

import asyncio
import sys

try:
    import websockets
    from websockets.asyncio.client import connect
except ImportError:
    print("missing: python3 has no websockets")
    sys.exit(0)


async def main(url):
    async with connect(url, max_size=None, ping_interval=None, compression=None) as socket:
        messages = ["hello", "x" * 100_000, "y" * 700_000]
        for message in messages:
            await socket.send(message)
            if await socket.recv() != message:
                sys.exit("another message came back")
        print("echo", len(messages))
        try:
            # Pings are answered meanwhile; a message would be none of ours.
            await asyncio.wait_for(socket.recv(), 0.5)
            sys.exit("a message that nobody has sent")
        except asyncio.TimeoutError:
            print("idle")
        try:
            await socket.send(b"z" * 2_000_000)
            await socket.recv()
        except websockets.exceptions.ConnectionClosed as closed:
            print("closed", closed.rcvd.code if closed.rcvd else "without a code")


asyncio.run(main(sys.argv[1]))
