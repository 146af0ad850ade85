"""The load generator for TLS: tls_load.py PORT connections=50 in-flight=1 size=32 seconds=1
warm-up=0.4 cpu=PID …. Prints the lines of `load echo`, without latencies."""

import json
import select
import socket
import ssl
import sys
import time

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
KEY = b"\x01\x02\x03\x04"


def header(size, mask_bit):
    if size < 126:
        return bytes([0x82, mask_bit | size])
    if size < 1 << 16:
        return bytes([0x82, mask_bit | 126]) + size.to_bytes(2, "big")
    return bytes([0x82, mask_bit | 127]) + size.to_bytes(8, "big")


class Connection:
    """Sends `in_flight` messages at once, and the next ones when all their echoes are there."""

    def __init__(self, port, context, size, in_flight):
        self.messages = (header(size, 0x80) + KEY + bytes(size)) * in_flight
        self.echo_size = (len(header(size, 0)) + size) * in_flight
        self.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(REQUEST % port)
        response = b""
        while not response.endswith(b"\r\n\r\n"):
            response += self.sock.recv(1)
        self.sock.setblocking(False)
        self.begin()

    def begin(self):
        self.to_send, self.to_receive = memoryview(self.messages), self.echo_size

    def proceed(self, buffer):
        """Send and receive as much as possible. Returns whether all echoes are there."""
        try:
            while self.to_send:
                self.to_send = self.to_send[self.sock.send(self.to_send) :]
        except ssl.SSLWantWriteError:
            pass
        try:
            while self.to_receive:
                received = self.sock.recv_into(buffer)
                if not received:
                    sys.exit("the server closed a connection")
                self.to_receive -= received
        except ssl.SSLWantReadError:
            return False
        return True


def cpu_s(pids):
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def main():
    port, words = int(sys.argv[1]), [word.split("=") for word in sys.argv[2:]]
    options = {name: float(value) for name, value in words if name != "cpu"}
    pids = [int(value) for name, value in words if name == "cpu"]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    size, in_flight = int(options["size"]), int(options["in-flight"])
    poll, buffer, all_connections = select.epoll(), bytearray(1 << 16), {}
    for _ in range(int(options["connections"])):
        one = Connection(port, context, size, in_flight)
        all_connections[one.sock.fileno()] = one
        poll.register(one.sock, select.EPOLLIN)
        one.proceed(buffer)
    start = time.monotonic() + options["warm-up"]
    end, messages, cpu = start + options["seconds"], 0, None
    while (now := time.monotonic()) < end:
        if cpu is None and now >= start:
            messages, cpu = 0, cpu_s(pids)
        for descriptor, _ in poll.poll(0.1):
            one = all_connections[descriptor]
            if one.proceed(buffer):
                messages += in_flight
                one.begin()
                one.proceed(buffer)
            poll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if one.to_send else 0))
    used = (cpu_s(pids) - cpu) * 1e6 / max(messages, 1)
    print(json.dumps({"messages": messages, "cpu_us": used}))


main()
