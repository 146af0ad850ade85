"""Rooms: groups of WebSockets, in one process or in several that share a broker."""

from ..bus.settings import BusSettings, BusState, BusStats, History
from .delivery import Delivery
from .room import Room
from .rooms import Rooms, RoomsStats
from .slow_consumers import SlowConsumers

__all__ = [
    "BusSettings",
    "BusState",
    "BusStats",
    "Delivery",
    "History",
    "Room",
    "Rooms",
    "RoomsStats",
    "SlowConsumers",
]
