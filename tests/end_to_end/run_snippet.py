"""Serves a program of the documentation: run_snippet.py FRAMEWORK FILE PORT.

Each function adds the parts that the snippet leaves to the reader, and prints the cookie of a
user who has logged in.
"""

from __future__ import annotations

import base64
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

USER = {"user": "alice"}
urlpatterns: list[Any] = []
"""Django's."""


def serve_http_server(path: str, port: int) -> None:
    source = Path(path).read_text()
    if source.count("8000") != 1:
        raise ValueError("the snippet must name its port once")
    program = Path(path).with_name("on_a_free_port.py")
    program.write_text(source.replace("8000", str(port)))
    announce("")
    runpy.run_path(str(program))


def serve_flask(path: str, port: int) -> None:
    from flask.sessions import SecureCookieSessionInterface

    app = runpy.run_path(path)["app"]
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    announce(f"session={serializer.dumps(USER)}" if serializer else "")  # no secret: no login
    app.run(port=port)


def serve_django(path: str, port: int) -> None:
    from django.conf import settings
    from django.core import signing
    from django.urls import re_path
    from werkzeug.serving import run_simple

    backend = "django.contrib.sessions.backends.signed_cookies"
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="for the tests",
        SESSION_ENGINE=backend,
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    )
    snippet = runpy.run_path(path)
    urlpatterns.append(re_path("^echo$", snippet["echo"]))
    announce(f"sessionid={signing.dumps(USER, salt=backend)}")
    run_simple("127.0.0.1", port, snippet["app"], threaded=True)


def serve_fastapi(path: str, port: int) -> None:
    import uvicorn
    from itsdangerous import TimestampSigner

    from websocket_handler.servers.uvicorn import WebSocketProtocol

    (secret,) = re.findall(r'secret_key="(.*)"', Path(path).read_text())
    data = base64.b64encode(json.dumps(USER).encode())
    announce(f"session={TimestampSigner(secret).sign(data).decode()}")
    uvicorn.run(runpy.run_path(path)["app"], port=port, ws=WebSocketProtocol)


def serve_aiohttp(path: str, port: int) -> None:
    from aiohttp import web

    snippet = runpy.run_path(path)
    snippet["sessions"]["alice"] = True
    announce("session=alice")
    web.run_app(snippet["app"], host="127.0.0.1", port=port)


def announce(cookie: str) -> None:
    print(f"cookie <{cookie}> on port {sys.argv[3]}", flush=True)  # noqa: T201


if __name__ == "__main__":
    globals()[f"serve_{sys.argv[1]}"](sys.argv[2], int(sys.argv[3]))
