"""gunicorn with WebSockets: gunicorn -c gunicorn.conf.py app:app

A worker that stops (SIGTERM, a reload, --max-requests) closes its WebSockets with 1012, spread
over five seconds so that the clients do not all reconnect at once. It waits up to twenty seconds
for clients that still have to read data. Without the hook it closes them immediately with 1001
and waits for one second.
"""

import websocket_handler

worker_class = "gthread"
threads = 8
graceful_timeout = 30


def worker_exit(server, worker):
    websocket_handler.default_engine().close_all(window=5, timeout=20)
