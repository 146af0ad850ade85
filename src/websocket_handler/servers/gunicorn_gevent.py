"""gunicorn's gevent worker with connections that move, also those of handlers that receive messages
themselves: `gunicorn -k websocket_handler.servers.gunicorn_gevent.MovingGeventWorker app:app`.

gunicorn calls its hook `worker_exit` after it has ended all running handlers. This worker moves the
connections before that. Such a handler ends then, and runs again in the new worker.
"""

from __future__ import annotations

import gevent
from gunicorn.workers import ggevent

from ..moving.departures import DEFAULT_TIMEOUT_S, move_connections

CHECK_INTERVAL_S = 0.1


class MovingGeventWorker(ggevent.GeventWorker):  # type: ignore[misc]
    """Moves its WebSockets when it no longer accepts connections. Needs no hook."""

    def run(self) -> None:
        moving = gevent.spawn(self._move_at_end)
        super().run()
        moving.join()

    def _move_at_end(self) -> None:
        while self.alive or any(listener.fileno() >= 0 for listener in self.sockets):
            gevent.sleep(CHECK_INTERVAL_S)
        move_connections(timeout=self.cfg.timeout / 2 or DEFAULT_TIMEOUT_S)
