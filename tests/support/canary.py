"""A well-behaved connection that keeps echoing while others misbehave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from .programs import Program, wait_for
from .raw_client import RawClient, close, text


class Canary:
    """A connection that echoes all the time, in a thread."""

    def __init__(self, program: Program) -> None:
        self.failure: BaseException | None = None
        self.round_trips: list[float] = []
        self._stop = threading.Event()
        self._client = RawClient(program.address).open()
        self._thread = threading.Thread(target=self._echo)
        self._thread.start()

    def _echo(self) -> None:
        try:
            while not self._stop.wait(0.002):
                begun = time.monotonic()
                self._client.echo(text(str(len(self.round_trips))))
                self.round_trips.append(time.monotonic() - begun)
        except BaseException as error:
            self.failure = error

    def end(self) -> None:
        self._stop.set()
        self._thread.join(20)
        with self._client as client:
            if self.failure is None:
                client.send(close(1000))
                client.expect_closed(1000)


@contextlib.contextmanager
def healthy_connection(program: Program) -> Iterator[Canary]:
    """A canary during the block. Fails if the canary fails, or if descriptors or threads leak."""
    wait_for(lambda: "process_request" not in str(program.get("/threads")[:-1]), "a quiet start")
    descriptors, threads = program.descriptors(), threads_but_the_engine_s(program)
    canary = Canary(program)
    yield canary
    wait_for(lambda: len(canary.round_trips) > 3 or canary.failure, "the canary to echo")
    canary.end()
    assert canary.failure is None
    assert max(canary.round_trips) < 5
    wait_for(lambda: program.descriptors() <= descriptors, "descriptors to be given back")
    wait_for(lambda: threads_but_the_engine_s(program) <= threads, "threads to end")


def threads_but_the_engine_s(program: Program) -> int:
    """The number of threads besides the engine's, which stay for listeners that block."""
    names: list[str] = program.get("/threads")
    return len([name for name in names if not name.startswith("websocket-engine")])
