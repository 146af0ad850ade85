"""websockets, its asyncio server without compression, or picows behind the same API:
websockets_echo.py PORT websockets|picows."""

import asyncio
import sys

if sys.argv[2] == "picows":
    from picows.websockets import serve
else:
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
