"""broadcast() of websockets: websockets_broadcast.py PORT [compressed].

It compresses with zlib level 1 and no context takeover.
"""

import asyncio
import sys

from broadcasting import execute, lines
from websockets.asyncio.server import broadcast, serve
from websockets_settings import COMPRESSED

MEMBERS = set()


async def hold(websocket):
    MEMBERS.add(websocket)
    async for message in websocket:
        await websocket.send(message)


async def main():
    extensions = COMPRESSED if sys.argv[2:] == ["compressed"] else None
    options = {"compression": None, "extensions": extensions, "ping_interval": None}
    async with serve(hold, "127.0.0.1", int(sys.argv[1]), backlog=4096, **options):
        source = lines()
        while line := await asyncio.to_thread(next, source, ""):
            execute(line, MEMBERS, lambda message: broadcast(MEMBERS, message))


asyncio.run(main())
