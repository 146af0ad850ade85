"""websockets, its asyncio server without compression: websockets_echo.py PORT."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main():
    port = int(sys.argv[1])
    async with serve(
        echo, "127.0.0.1", port, compression=None, max_size=1 << 24, backlog=4096
    ) as server:
        await server.serve_forever()


asyncio.run(main())
