"""aiohttp: aiohttp_echo.py PORT [compressed]. It compresses with zlib level 1."""

import sys

from aiohttp import WSMsgType, web
from secure import context

COMPRESSED = sys.argv[2:] == ["compressed"]


async def echo(request):
    ws = web.WebSocketResponse(compress=COMPRESSED, max_msg_size=1 << 24)
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            await ws.send_str(message.data)
        else:
            await ws.send_bytes(message.data)
    return ws


app = web.Application()
app.router.add_get("/", echo)
web.run_app(
    app,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    print=None,
    access_log=None,
    backlog=4096,
    ssl_context=context(),
)
