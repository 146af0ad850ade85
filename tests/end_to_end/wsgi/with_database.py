"""Applications with listeners that use a database: `django_app` and `django_asgi` with Django's
ORM, `flask_app` with SQLAlchemy. The environment names the folder of PostgreSQL's socket."""

from __future__ import annotations

import os
import time
from typing import Any

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path
from flask import Flask, current_app, g, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from websocket_handler import ASGIMiddleware, WebSocket, WSGIMiddleware

from ..postgresql import APPLICATION

FOLDER = os.environ["POSTGRESQL_FOLDER"]

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="for the tests",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": FOLDER,
            "CONN_MAX_AGE": int(os.environ.get("CONN_MAX_AGE", "0")),
            "OPTIONS": {"application_name": APPLICATION},
        }
    },
)
django.setup()


def query(command: str) -> str:
    """Execute the SQL of a message; "slow" waits meanwhile."""
    if command == "slow":
        time.sleep(0.2)
        command = "select 42"
    try:
        with connection.cursor() as cursor:
            cursor.execute(command)
            return str(cursor.fetchone()[0])
    except Exception as error:
        return type(error).__name__


def listen(request: HttpRequest) -> HttpResponse:
    ws: WebSocket = request.META["wsgi.websocket"]
    ws.on("message", lambda command: ws.send(query(command)))
    return HttpResponse(ws.connect())


def listen_async(request: HttpRequest) -> HttpResponse:
    ws: WebSocket = request.scope["websocket"]

    @ws.on("message")
    async def answer(command: str) -> None:
        ws.send(await sync_to_async(query)(command))

    return HttpResponse(ws.connect())


urlpatterns = [path("listen", listen), path("listen_async", listen_async)]
django_app = WSGIMiddleware(get_wsgi_application())
django_asgi = ASGIMiddleware(get_asgi_application())

flask_app = Flask(__name__)
flask_app.config["SQLALCHEMY_DATABASE_URI"] = f"postgresql+psycopg://postgres@/?host={FOLDER}"
flask_app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
    "pool_pre_ping": True,
    "connect_args": {"application_name": APPLICATION},
}
flask_app.wsgi_app = WSGIMiddleware(  # type: ignore[method-assign]
    flask_app.wsgi_app, around=flask_app.app_context
)
database = SQLAlchemy(flask_app)


@flask_app.get("/listen")
def listen_in_flask() -> Any:
    ws: WebSocket = request.environ["wsgi.websocket"]

    @ws.on("message")
    def answer(command: str) -> None:
        assert not hasattr(g, "command"), "g is that of another listener"
        g.command = command
        assert current_app.name == flask_app.name
        try:
            ws.send(str(database.session.execute(text(g.command)).scalar()))
        except Exception as error:
            ws.send(type(error).__name__)

    return ws.connect()


@flask_app.get("/checked_out")
def checked_out() -> Any:
    pool: Any = database.engine.pool
    return str(pool.checkedout())
