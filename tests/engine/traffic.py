"""A connection that echoes, and frames of any opcode."""

from __future__ import annotations

from websocket_handler import Engine, WebSocket
from websocket_handler.protocol.assembly import Close
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import Peer, connect, make_websocket

KEY = b"\x01\x02\x03\x04"


def echoing(engine: Engine) -> tuple[WebSocket, Peer]:
    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    return websocket, connect(websocket)


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    return write_frame(opcode, payload, fin, KEY)


def leave(websocket: WebSocket, peer: Peer, code: int = 1000) -> None:
    peer.sock.sendall(frame(Opcode.CLOSE, code.to_bytes(2, "big")))
    while not isinstance(peer.read(), Close):
        pass
    peer.sock.close()
    assert websocket.wait_closed(10)
