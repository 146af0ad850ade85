"""gunicorn with WebSockets: gunicorn -c gunicorn.conf.py app:app

A worker that ends (SIGTERM, a reload, --max-requests) closes its WebSockets with 1012 in the
course of five seconds, so that the clients do not all come back at once, and waits up to
twenty more for those that still have something to read. Without the hook it closes them with
1001 at once, and waits for one second.
"""

import websocket_handler

worker_class = "gthread"
threads = 8
graceful_timeout = 30


def worker_exit(server, worker):
    websocket_handler.default_engine().close_all(window=5, timeout=20)
