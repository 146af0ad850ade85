"""One message to many WebSockets: in this process, and in others through a broker."""

from .delivery import Delivery
from .policy import SlowConsumers
from .room import Room
from .rooms import Rooms, RoomsStats

__all__ = ["Delivery", "Room", "Rooms", "RoomsStats", "SlowConsumers"]
