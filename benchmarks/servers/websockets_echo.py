"""The asyncio server of websockets, or picows with the same API.

websockets_echo.py PORT websockets|picows [compressed]: compresses with zlib level 1, no context
takeover.
"""

import asyncio
import sys

from secure import context

if sys.argv[2] == "picows":
    from picows.websockets import serve
else:
    from websockets.asyncio.server import serve

EXTENSIONS = None
if sys.argv[3:] == ["compressed"]:
    from websockets_settings import COMPRESSED as EXTENSIONS


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main():
    port = int(sys.argv[1])
    async with serve(
        echo,
        "127.0.0.1",
        port,
        compression=None,
        extensions=EXTENSIONS,
        max_size=1 << 24,
        backlog=4096,
        ssl=context(),
    ) as server:
        await server.serve_forever()


asyncio.run(main())
