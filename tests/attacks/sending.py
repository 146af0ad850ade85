"""Applications that send the requested number of messages of the requested size at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from websocket_handler import WebSocket, WSGIMiddleware

from ..end_to_end.echo_program import sending_messages


def wsgi_application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    ws: WebSocket = environ["wsgi.websocket"]

    @ws.on("message")
    def send(order: str) -> None:
        for message in sending_messages(order):
            ws.send(message)

    ws.connect()
    start_response("101 Switching Protocols", [])
    return []


wsgi_app = WSGIMiddleware(wsgi_application)


async def asgi_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        for message in sending_messages(event["text"]):
            await send({"type": "websocket.send", "text": message})
