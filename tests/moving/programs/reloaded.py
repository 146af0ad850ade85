"""The source of an application that `uvicorn --reload` serves, with a version to edit."""

SOURCE = """\
import os

VERSION = 1


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (event := (await receive())["type"]):
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{os.getpid()} {VERSION} {event['text']}"})
"""
