"""The application beside Django, in `socketio.WSGIApp`."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

import socketio

from .application import Journal, options, serve_if_asked, state_of, with_handlers

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="for the tests")
sio = socketio.Server(**{"async_mode": "threading", **options()})
serve_if_asked(sio)
journal: Journal = []
with_handlers(sio, journal)


def state(_: HttpRequest) -> JsonResponse:
    return JsonResponse(state_of(sio, journal))


def emit(request: HttpRequest) -> JsonResponse:
    sio.emit("news", request.GET["text"], to=request.GET.get("room"))
    return JsonResponse(["sent"], safe=False)


urlpatterns = [path("state", state), path("emit", emit)]
app = socketio.WSGIApp(sio, get_wsgi_application())
