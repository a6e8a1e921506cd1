"""A WebSocket server by Python's websockets: sends every message back.

Called as `websocket_server.py`; prints its port, and serves until its standard input ends. `close CODE REASON` closes like that, `abort`
cuts the connection, `ping` is answered by a ping and, when that is answered, by `ponged`. Prints `missing` with a reason where
websockets is not installed.
"""

import asyncio
import sys

try:
    from websockets.asyncio.server import serve
    from websockets.exceptions import ConnectionClosed
except ImportError as error:
    print(f"missing {error}")
    sys.exit(0)


async def echo(socket):
    try:
        async for message in socket:
            words = message.split(" ") if isinstance(message, str) else []
            if words[:1] == ["close"]:
                await socket.close(int(words[1]), words[2])
            elif words == ["abort"]:
                socket.transport.abort()
            elif words == ["ping"]:
                await (await socket.ping(b"are you there"))
                await socket.send("ponged")
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=1 << 24, subprotocols=["chat"]) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
