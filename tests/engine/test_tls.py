"""The layer between a channel and a TLS socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from websocket_handler import IS_NATIVE

from .carriers import secure_pair

if IS_NATIVE:
    from websocket_handler.engine.tls_connection import TlsConnection

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the pure-Python engine takes no TLS socket")

ECHO_UNDER_GEVENT = """
from gevent import monkey
{before}
monkey.patch_all()
import gevent, socket, ssl
from tests.engine.carriers import client_context, server_context
from tests.support.connections import Peer, make_websocket
from websocket_handler import Engine
from websocket_handler.protocol.frame import Opcode, write_frame

ours, theirs = socket.socketpair()
securing = gevent.spawn(server_context.wrap_socket, ours, server_side=True)
theirs = client_context.wrap_socket(theirs, server_hostname="localhost")
websocket = make_websocket(Engine())
websocket.on("message", websocket.send)
websocket.connect()
websocket._take_over(securing.get(timeout=20))
peer = Peer(theirs)
peer.read_head()
theirs.sendall(write_frame(Opcode.TEXT, b"hello", key=bytes(4)))
print(peer.read())
websocket.close()
print(peer.read())
"""


@pytest.mark.parametrize("before", ["", "import ssl"], ids=["ssl after it", "ssl before it"])
def test_tls_socket_is_served_whenever_gevent_has_patched(before: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", ECHO_UNDER_GEVENT.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "Message(data='hello')\nClose(code=1000, reason='', cookie=b'')\n", done


def test_closed_layer_leaves_the_next_owner_of_its_descriptor_alone() -> None:
    """A thread may have waited for the lock of the layer while another one has closed it."""
    ours, client = secure_pair(*socket.socketpair())
    other, peer = socket.socketpair()
    with client, other, peer:
        layer = TlsConnection(ours)  # type: ignore[arg-type]
        number = layer.fileno()
        layer.close()
        os.dup2(other.fileno(), number)
        try:
            peer.sendall(b"not TLS")
            peer.setblocking(False)
            assert layer.read(bytearray(1 << 17), 1 << 17) == -1
            with pytest.raises(BrokenPipeError):
                layer.write(b"data")
            layer.end_output()
            with pytest.raises(BlockingIOError):
                peer.recv(1)
            assert os.read(number, 100) == b"not TLS"
        finally:
            os.close(number)
