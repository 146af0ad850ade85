"""Serves a WSGI application with a server from PyPI or the standard library on a free port:
serve.py SERVER MODULE:NAME [CERTIFICATE]. (gunicorn has its own command.)"""

from __future__ import annotations

import importlib
import logging
import signal
import ssl
import sys
import threading
from typing import Any

from ...support.ports import free_port


def with_werkzeug(app: Any, certificate: str) -> None:
    from werkzeug.serving import make_server

    context = (certificate, certificate) if certificate else None
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=context)
    announce(server.port)
    server.serve_forever()


def with_cheroot(app: Any, certificate: str) -> None:
    from cheroot.ssl.builtin import BuiltinSSLAdapter
    from cheroot.wsgi import Server

    server = Server(("127.0.0.1", 0), app, numthreads=4)
    if certificate:
        server.ssl_adapter = BuiltinSSLAdapter(certificate, certificate)
    server.prepare()
    announce(server.bind_addr[1])
    serving = threading.Thread(target=server.serve, daemon=True)
    serving.start()
    try:
        serving.join()  # a signal while it uses its queue would block a worker for ever
    finally:
        server.stop()


def with_waitress(app: Any, _: str) -> None:
    from waitress.server import create_server

    server = create_server(
        app,
        host="127.0.0.1",
        port=0,
        threads=4,
        trusted_proxy="127.0.0.1",
        trusted_proxy_headers={"x-forwarded-for", "x-forwarded-proto"},
    )
    announce(server.effective_port)
    server.run()


def with_wsgiref(app: Any, certificate: str) -> None:
    from wsgiref.simple_server import make_server

    server = make_server("127.0.0.1", 0, app)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    announce(server.server_port)
    server.serve_forever()


def with_bottle(app: Any, _: str) -> None:
    from bottle import run

    port = free_port()
    announce(port)
    run(app, host="127.0.0.1", port=port, quiet=True)


def with_runserver(_: Any, __: str) -> None:
    """Django's server with an application that is not Django's."""
    from django.conf import settings
    from django.core.management import execute_from_command_line

    settings.configure(DEBUG=True, WSGI_APPLICATION=sys.argv[2].replace(":", "."))
    port = free_port()
    announce(port)
    command = ["manage.py", "runserver", "--noreload", "--skip-checks", f"127.0.0.1:{port}"]
    execute_from_command_line(command)


def with_pywsgi(app: Any, certificate: str) -> None:
    from gevent.pywsgi import WSGIServer

    secure: Any = {"certfile": certificate, "keyfile": certificate} if certificate else {}
    server = WSGIServer(("127.0.0.1", 0), app, **secure)
    server.start()
    announce(server.address[1])
    server.serve_forever()


def announce(port: object) -> None:
    print(f"ready on port {port}", flush=True)  # noqa: T201


def main() -> None:
    server, name, *certificate = sys.argv[1:]
    if server == "patched_pywsgi":
        importlib.import_module("gevent.monkey").patch_all()
        server = "pywsgi"
    logging.basicConfig(level=logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module, _, attribute = name.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    try:
        globals()[f"with_{server}"](app, *certificate or [""])
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
