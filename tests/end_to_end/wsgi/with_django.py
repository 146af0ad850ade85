"""The application in Django: `application` for servers; run as a program it is a manage.py."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from websocket_handler import WSGIMiddleware

from .. import misuse

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="for the tests",
        WSGI_APPLICATION=f"{__name__}.application",
        DEBUG=False,
    )


def echo(request: HttpRequest) -> HttpResponse:
    ws: Any = request.META["wsgi.websocket"]
    if ws is None:
        return HttpResponse("We only speak WebSockets here", status=426)
    ws.on("message", ws.send)
    return HttpResponse(ws.connect(max_message_size=1 << 24))


def misused(request: HttpRequest, kind: str) -> Any:
    result = misuse.connect(request.META["wsgi.websocket"], kind)
    return (
        None
        if kind == "forgets"
        else HttpResponse("nobody sees this" if kind == "body" else result)
    )


def forbidden(_: HttpRequest) -> HttpResponse:
    return HttpResponse("not you\n", status=403)


def plain(_: HttpRequest) -> HttpResponse:
    return HttpResponse("plain\n")


urlpatterns = [
    path("echo", echo),
    path("forbidden", forbidden),
    path("plain", plain),
    path("misuse/<kind>", misused),
]
application = app = WSGIMiddleware(get_wsgi_application())

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    os.environ.setdefault("DJANGO_RUNSERVER_HIDE_WARNING", "true")
    execute_from_command_line(sys.argv)
