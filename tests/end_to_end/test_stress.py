"""Concurrency: many threads, peers that come and go, and exhausted resources."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from websocket_handler.protocol.frame import Opcode

from ..support.programs import EngineSetup, Journal, Program, echo_program, wait_for
from ..support.raw_client import RawClient, binary, close, text

HELLO = text("hello")


def at_once(threads: int, call: Callable[[int], object]) -> None:
    """Make the call in that many threads; raises the exception of any of them."""
    with ThreadPoolExecutor(threads) as pool:
        for result in [pool.submit(call, number) for number in range(threads)]:
            result.result(60)


def test_many_simultaneous_handshakes_succeed(program: Program) -> None:
    before = program.descriptors()

    def come_and_go(number: int) -> None:
        for round_ in range(15):
            with RawClient(program.address) as client:
                client.open()
                client.echo(text(f"{number} {round_}"), binary(bytes(100 * number)))
                client.send(close(3000 + number))
                client.expect_closed(3000 + number)

    at_once(20, come_and_go)
    wait_for(lambda: program.descriptors() <= before, "descriptors to be given back")


def test_peers_leave_while_threads_send_the_rest_receive_all(program: Program) -> None:
    """Peers that stay receive everything."""
    seen = len(program.log())
    threads, count = 8, 60
    chance = random.Random(6455)
    done = threading.Event()

    def come_and_go(_: int) -> None:
        while not done.is_set():
            client = RawClient(program.address).open("/members")
            client.sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                for _ in range(chance.randrange(5)):
                    client.read_frame()
            if chance.random() < 0.5:
                client.reset()
            else:
                client.sock.close()

    def stay(client: RawClient) -> None:
        numbers: list[list[int]] = [[] for _ in range(threads)]
        while not all(each and each[-1] == count - 1 for each in numbers):
            thread, number = client.read_frame().payload.split()[:2]
            numbers[int(thread)].append(int(number))
        assert numbers == [list(range(count))] * threads

    with ThreadPoolExecutor(6) as pool, contextlib.ExitStack() as stack:
        stack.callback(done.set)
        staying = [stack.enter_context(RawClient(program.address)) for _ in range(2)]
        for client in staying:
            client.open("/members")
        results = [pool.submit(stay, client) for client in staying]
        goers = [pool.submit(come_and_go, number) for number in range(3)]
        assert program.get(f"/broadcast?threads={threads}&count={count}") is True
        for result in results:
            result.result(60)
        done.set()
        for goer in goers:
            goer.result(60)
    assert "Traceback" not in program.log()[seen:]


@pytest.mark.parametrize("kind", ["whole", "fragments"])
def test_threads_send_and_close_at_once_one_close_frame_is_sent(
    program: Program, journal: Journal, kind: str
) -> None:
    """One close frame is sent, nothing follows it, and `close` is emitted once; the messages of
    each thread arrive in order."""
    for _ in range(10):
        with RawClient(program.address) as client:
            client.open(f"/closes-from-threads?id={journal.name}&{kind}=1").send(HELLO)
            last = [-1] * 8
            while (frame := client.read_frame()).opcode == Opcode.TEXT:
                payload = frame.payload
                if kind == "fragments":
                    assert not frame.fin
                    frame = client.read_frame()
                    if frame.opcode == Opcode.CLOSE:
                        break
                    assert (frame.opcode, frame.fin) == (Opcode.CONTINUATION, True)
                    payload += frame.payload
                thread, number = map(int, payload.split())
                assert number == last[thread] + 1
                last[thread] = number
            code = int.from_bytes(frame.payload, "big")
            assert code in range(4000, 4008)
            if kind == "whole":
                assert last[code - 4000] == 99
            client.send(close(code))
            client.expect_end()
    wait_for(lambda: str(journal.read()).count("'close'") == 10, "ten close events")


def test_exhausted_descriptors_leave_open_connections_working(engine_setup: EngineSetup) -> None:
    """Open connections continue, new ones are rejected, and everything works afterwards."""
    with echo_program(engine_setup, descriptors=80) as program:
        with contextlib.ExitStack() as stack:
            opened = []
            for _ in range(120):
                client = stack.enter_context(RawClient(program.address))
                client.sock.settimeout(0.5)
                try:
                    client.open()
                except (AssertionError, EOFError, OSError):
                    break
                opened.append(client)
            assert 40 < len(opened) < 80
            for client in opened:
                client.sock.settimeout(10)
                client.echo(HELLO)
        wait_for(lambda: program.descriptors() < 30, "descriptors to be given back")
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
        assert program.end() == 0
