"""Django over WSGI, with signed cookies for sessions."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path

from websocket_handler import Rooms, WebSocket, WSGIMiddleware

from . import chat

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["testserver"],
        SECRET_KEY="for the tests",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    )
    django.setup()

room = Rooms()["chat"]


def login(request: HttpRequest) -> HttpResponse:
    request.session["user"] = request.POST["user"]
    return HttpResponse("welcome")


def websocket(request: HttpRequest) -> Any:
    ws = WebSocket.of(request)
    if ws is None:
        return HttpResponse("plain")
    user = request.session.get("user")
    if request.path == "/greeting" and user is None:
        return HttpResponse("log in first", status=403)
    return HttpResponse(chat.open_websocket(ws, request.path, user, room))


urlpatterns = [path("login", login), re_path("", websocket)]


def make_app() -> Any:
    return WSGIMiddleware(get_wsgi_application())
