"""One message to many WebSockets: in this process, and in others through a broker."""

from .bus_settings import BusSettings, BusState, BusStats, History
from .delivery import Delivery
from .policy import SlowConsumers
from .room import Room
from .rooms import Rooms, RoomsStats

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
