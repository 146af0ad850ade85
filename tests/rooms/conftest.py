"""Fixtures for rooms: brokers and buses; an engine and peers as in the engine's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from websocket_handler import Rooms
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusSettings, BusState, History

from ..engine.conftest import _close_peers, engine
from ..support.programs import wait_for
from .brokers import SERVERS, STARTERS, BrokerProcess
from .members import SLOW_HEARTBEAT, Make
from .recorder import Recorder

__all__ = ["_close_peers", "engine"]

Start = Callable[..., BrokerProcess]
Connect = Callable[..., tuple[Bus, Recorder]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test with every kind of broker, or with those that are servers."""
    names = set(metafunc.fixturenames)
    if "kind" in names:
        kinds = SERVERS if names & {"start", "server_kind"} else STARTERS
        metafunc.parametrize("kind", list(kinds), indirect=True, scope="session")


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def server_kind(kind: str) -> str:
    """A kind of broker that is a server."""
    return kind


@pytest.fixture
def start(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a broker of this kind for one test: options, `user`, `configuration`."""
    started = []

    def start_one(*options: str, **settings: str) -> BrokerProcess:
        folder = tmp_path_factory.mktemp(kind)
        started.append(STARTERS[kind](folder, *options, **settings))
        return started[-1]

    yield start_one
    for broker in started:
        broker.close()


@pytest.fixture
def fresh(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker for one test, which does not stop it."""
    broker = STARTERS[kind](tmp_path_factory.mktemp(kind))
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def shared(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker for many tests, none of which stops it."""
    broker = STARTERS[kind](tmp_path_factory.mktemp(kind))
    yield broker
    broker.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects a bus with a recorder to a broker; waits until it is up."""
    made: list[Bus] = []

    def connect_one(
        broker: BrokerProcess | str,
        *rooms: str,
        history: History | None = None,
        wait: bool = True,
        **settings: Any,
    ) -> tuple[Bus, Recorder]:
        recorder = Recorder()
        url = broker if isinstance(broker, str) else broker.url
        bus = Bus(url, recorder, history=history, settings=BusSettings(**settings))
        made.append(bus)
        for room in rooms:
            bus.join(room)
        bus.start()
        if wait:
            recorder.wait_for_state(BusState.UP)
            wait_for(lambda: bus.stats().rooms == len(rooms), "the rooms to be subscribed", 60)
        return bus, recorder

    yield connect_one
    for bus in made:
        bus.close(1)


@pytest.fixture
def make() -> Iterator[Make]:
    """Creates `Rooms` over a broker, closed after the test."""
    made: list[Rooms] = []

    def make_one(broker: BrokerProcess, **options: Any) -> Rooms:
        settings = BusSettings(**{**SLOW_HEARTBEAT, **options.pop("bus_settings", {})})
        made.append(Rooms(broker.url, bus_settings=settings, **options))
        return made[-1]

    yield make_one
    for rooms in made:
        rooms.close(5)
