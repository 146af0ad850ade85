"""Django over ASGI."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import re_path
from django.utils.decorators import async_only_middleware

from websocket_handler import ASGIMiddleware

from . import with_django
from .routes import respond_in_loop


@async_only_middleware  # type: ignore[untyped-decorator]
def after_response(get_response: Any) -> Any:
    """Middleware that fails when the view has responded."""

    async def middleware(request: HttpRequest) -> HttpResponse:
        response: HttpResponse = await get_response(request)
        if request.path == "/hook-raises":
            raise RuntimeError("as the test wants it")
        return response

    return middleware


async def view(request: HttpRequest) -> HttpResponse:
    response = await respond_in_loop(request, request.path)
    return with_django.respond_as_django(request, response)


settings.ROOT_URLCONF = __name__
settings.MIDDLEWARE[0] = f"{__name__}.after_response"
urlpatterns = [re_path("", view)]
app = ASGIMiddleware(get_asgi_application())
