"""`serve` itself, and the storage of environs."""

from __future__ import annotations

import gc
import io
import sys
import threading
from typing import Any

import engineio
import pytest
from flask_socketio import SocketIO

import socketio
from websocket_handler import WebSocketError, default_engine
from websocket_handler.socketio import serve, tornado_handler
from websocket_handler.socketio.packed_environ import PackedEnvirons

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "PATH_INFO": "/socket.io/",
    "HTTP_USER_AGENT": "é",
    "wsgi.version": (1, 0),
    "wsgi.multithread": True,
    "wsgi.input": io.BytesIO(b"body"),
    "gunicorn.socket": object(),
}


def test_serve_returns_the_server() -> None:
    for server in (
        socketio.Server(async_mode="threading"),
        socketio.AsyncServer(async_mode="asgi"),
        engineio.Server(async_mode="threading"),
        engineio.AsyncServer(async_mode="tornado"),
    ):
        assert serve(server) is server


def test_serve_twice_raises() -> None:
    server = serve(socketio.Server(async_mode="threading"))
    with pytest.raises(WebSocketError, match="before"):
        serve(server)


def test_serve_flask_socketio_without_application_raises() -> None:
    with pytest.raises(WebSocketError, match="init_app"):
        serve(SocketIO())


def test_serve_gevent_mode_without_patched_threads_raises() -> None:
    with pytest.raises(ValueError, match="patch_all"):
        serve(socketio.Server(async_mode="gevent"))


def test_serve_other_object_raises() -> None:
    with pytest.raises(TypeError, match="'object' is not a server"):
        serve(object())


def test_tornado_handler_without_serve_raises() -> None:
    with pytest.raises(WebSocketError, match="serve"):
        tornado_handler(socketio.AsyncServer(async_mode="tornado"))


def test_packed_environ_has_its_strings_and_objects() -> None:
    app = object()
    environs = PackedEnvirons()
    environs["sid"] = {**ENVIRON, "flask.app": app}
    found = environs["sid"]
    assert {name: found[name] for name in ENVIRON if name not in ("wsgi.input", "gunicorn.socket")}
    assert (found["HTTP_USER_AGENT"], found["wsgi.version"]) == ("é", (1, 0))
    assert found["flask.app"] is app
    assert found["wsgi.input"].read() == b""
    assert "gunicorn.socket" not in found
    assert environs.get("other") is None


def test_packed_environ_keeps_changes() -> None:
    environs = PackedEnvirons()
    environs["sid"] = ENVIRON
    session: dict[str, Any] = {}
    environ = environs["sid"]
    environ["saved_session"] = session
    environ["werkzeug.request"] = object()
    environ.setdefault("more", 1)
    assert environs["sid"] is environ
    del environ["PATH_INFO"], environ
    gc.collect()
    environ = environs["sid"]
    assert environ["saved_session"] is session
    assert environ["more"] == 1
    assert "PATH_INFO" not in environ
    assert "werkzeug.request" not in environ


def test_packed_scope_has_its_items_and_objects() -> None:
    app = object()
    scope = {"type": "http", "path": "/", "headers": [(b"host", b"x")], "app": app, "state": {}}
    environs = PackedEnvirons()
    environs["sid"] = {"asgi.scope": scope, "asgi.send": object()}
    assert environs["sid"]["asgi.scope"] == scope
    assert environs["sid"]["asgi.scope"]["app"] is app
    assert "asgi.send" not in environs["sid"]


def test_call_later_is_made_in_the_engines_thread() -> None:
    made = threading.Event()
    threads: list[str] = []

    def call() -> None:
        threads.append(threading.current_thread().name)
        made.set()

    default_engine()._call_later(0.01, call)
    assert made.wait(10)
    assert threads[0].startswith("websocket-engine")


def test_clients_connect_in_many_threads_without_error() -> None:
    manager = serve(socketio.Server(async_mode="threading")).manager
    errors: list[BaseException] = []

    def connect_and_disconnect(thread: int) -> None:
        try:
            for number in range(200):
                sid = manager.connect(f"{thread}-{number}", "/")
                manager.pre_disconnect(sid, "/")
                manager.disconnect(sid, "/")
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=connect_and_disconnect, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors
    assert manager.rooms == manager.pending_disconnect == {}
