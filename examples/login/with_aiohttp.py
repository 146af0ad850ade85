"""aiohttp: http://localhost:8000/

pip install websocket-handler aiohttp
"""

import secrets
from pathlib import Path

from aiohttp import web

from websocket_handler import WebSocket

sessions = set()


async def index(request):
    return web.FileResponse(Path(__file__).with_name("echo.html"))


async def login(request):
    session = secrets.token_hex()
    sessions.add(session)
    response = web.Response(text="welcome\n")
    response.set_cookie("session", session, httponly=True)
    return response


async def echo(request):
    ws = WebSocket.of(request)
    if ws is None:
        return web.Response(text="We only speak WebSockets here\n", status=426)
    if request.cookies.get("session") not in sessions:
        return web.Response(text="Log in first\n", status=401)
    ws.on("message", ws.send)
    return ws.connect()


app = web.Application()
app.add_routes([web.get("/", index), web.post("/login", login), web.get("/echo", echo)])

if __name__ == "__main__":
    web.run_app(app, host="localhost", port=8000)
