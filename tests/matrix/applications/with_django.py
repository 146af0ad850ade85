"""Django over WSGI."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import WSGIMiddleware

from .routes import REQUEST_ID, Response, respond, wait_for_client


class AfterResponse:
    """Middleware that fails when the view has responded."""

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response: HttpResponse = self._get_response(request)
        if request.path == "/hook-raises":
            raise RuntimeError("as the test wants it")
        return response


settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for the tests",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        f"{__name__}.AfterResponse",
        "django.contrib.sessions.middleware.SessionMiddleware",
    ],
)


def view(request: HttpRequest) -> HttpResponse:
    return respond_as_django(request, respond(request, request.path))


def respond_as_django(request: HttpRequest, response: Response) -> HttpResponse:
    if response.status == 401:
        return HttpResponse("not you", status=401)
    if request.path == "/logs-in":
        request.session["user"] = "alice"
    fields = {"X-Request-Id": REQUEST_ID}
    found = HttpResponse(response.body, status=response.status, headers=fields)
    if request.path == "/works-on":
        found._resource_closers.append(wait_for_client)
    return found


urlpatterns = [re_path("", view)]
app = WSGIMiddleware(ProxyFix(get_wsgi_application()))
