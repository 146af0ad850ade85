"""The application in Django over ASGI: a Channels consumer and ordinary views."""

from __future__ import annotations

from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from websocket_handler import ASGIMiddleware

from .. import misuse

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="not one", USE_TZ=True)

JOURNAL: list[list[object]] = []


class Echo(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data, bytes_data)

    async def disconnect(self, code: int) -> None:
        JOURNAL.append(["disconnect", code])


class Refusal(WebsocketConsumer):  # type: ignore[misc]
    """Not `async`: Channels calls it in a thread."""

    def connect(self) -> None:
        self.close()


def ordinary_echo(request: HttpRequest) -> HttpResponse:
    ws = request.scope["websocket"]
    if ws is None:
        return HttpResponse("We only speak WebSockets here\n", status=426)
    ws.on("message", ws.send)
    return HttpResponse(ws.connect(max_message_size=1 << 22))


def misused(request: HttpRequest, kind: str) -> Any:
    result = misuse.connect(request.scope["websocket"], kind)
    return (
        None
        if kind == "forgets"
        else HttpResponse("nobody sees this" if kind == "body" else result)
    )


async def ordinary_conversation(request: HttpRequest) -> HttpResponse:
    ws: Any = request.scope["websocket"]
    response = HttpResponse(ws.connect(max_message_size=1 << 22))
    async for message in ws:
        ws.send(message)
    return response


urlpatterns = [
    path("plain", lambda _: JsonResponse("plain\n", safe=False)),
    path("journal", lambda _: JsonResponse(JOURNAL, safe=False)),
    path("ordinary/echo", ordinary_echo),
    path("ordinary/misuse/<kind>", misused),
    path("ordinary/conversation", ordinary_conversation),
    path("ordinary/forbidden", lambda _: HttpResponse("not you\n", status=403)),
]

consumers = URLRouter([path("echo", Echo.as_asgi()), path("forbidden", Refusal.as_asgi())])
django = get_asgi_application()
ordinary = ASGIMiddleware(django)


async def websockets(scope: Any, receive: Any, send: Any) -> None:
    chosen = ordinary if scope["path"].startswith("/ordinary/") else consumers
    await chosen(scope, receive, send)


app = ProtocolTypeRouter({"http": ordinary, "websocket": websockets})
