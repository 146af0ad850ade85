"""gunicorn moves its WebSockets to the new workers: gunicorn -c gunicorn.conf.py chat:app"""

import websocket_handler

worker_class = "gthread"
threads = 8
timeout = 60  # bounds the whole move, because the worker's heartbeat has ended


def worker_exit(server, worker):
    websocket_handler.move_connections(timeout=40)
