"""gunicorn moves its WebSockets to the new workers: gunicorn -c gunicorn.conf.py chat:app"""

import gc

import websocket_handler

worker_class = "gthread"
threads = 8
timeout = 150  # gunicorn kills a worker that needs longer; more time makes the move gentler


def post_worker_init(worker):
    gc.freeze()  # else the collector examines the whole application again and again


def worker_exit(server, worker):
    websocket_handler.move_connections(timeout=worker.cfg.timeout - 15)
