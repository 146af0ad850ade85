"""`websocket-handler connect` in pipes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from websocket_handler.cli import commands
from websocket_handler.protocol.frame import Opcode

from ..support.ports import free_port
from ..support.programs import Program
from ..support.raw_client import Frame, binary, close, text
from .processes import COMMAND, TIMEOUT_S, environment, run, start_interruptible
from .servers import answering, echoing, header, replying, sending, serving, upgrade

INF = ("--wait", "inf")

Call = Callable[..., "Result"]


class Result(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


@pytest.fixture
def call(capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Runs the command in this process, with its output in a pipe. It must not read stdin."""

    def run_here(*arguments: str) -> Result:
        return Result(commands.run(["connect", *arguments]), *capfdbinary.readouterr())

    return run_here


def test_lines_are_messages_and_the_last_may_have_no_end() -> None:
    lines = [str(number) for number in range(3000)] + ["", "/close", "@file", "héllo"]
    with serving(echoing(len(lines))) as port:
        done = run("connect", f"ws://127.0.0.1:{port}/", *INF, stdin="\n".join(lines))
    assert done.stdout.decode().split("\n")[:-1] == lines
    assert (done.stderr, done.returncode) == (b"", 0)


def test_connection_is_closed_when_the_time_to_wait_is_over(echo: Program, url: str) -> None:
    seen = len(echo.log())
    done = run("connect", url, "--wait", "0.1")
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)
    echo.wait_for_log("1000", seen)


def test_one_ends_after_the_first_message(call: Call, url: str) -> None:
    done = call("-1", url, "--wait", "inf", "-x", "a", "-x", "b")
    assert (done.stdout, done.returncode) == (b"a\n", 0)


def test_missing_reply_is_an_error_with_one(call: Call) -> None:
    with serving(leaving_after_close) as port:
        done = call(f"ws://127.0.0.1:{port}/", "-1", "-w", "0.1", "-x", "hello")
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"no reply\n", 4)


def leaving_after_close(sock: socket.socket, head: bytes) -> None:
    sock.sendall(upgrade(head))
    while (data := sock.recv(1 << 16)) and data[0] & 15 != Opcode.CLOSE:
        pass


def test_address_without_scheme_means_ws(call: Call, echo: Program) -> None:
    done = call(f"127.0.0.1:{echo.port}/echoserver", "-1", "-x", "hello")
    assert (done.stdout, done.returncode) == (b"hello\n", 0)


@pytest.mark.parametrize("version", ["hixie-76", "hixie-75", "hybi-07", "hybi-10"])
def test_older_version_is_spoken(call: Call, echo: Program, url: str, version: str) -> None:
    seen = len(echo.log())
    done = call(url, "--version", version, "-1", "-x", "hello")
    assert (done.stdout, done.returncode) == (b"hello\n", 0)
    log = echo.wait_for_log("uses", seen)
    assert f"uses {'hybi-12' if version == 'hybi-10' else version}" in log


def test_json_is_indented_and_other_text_unchanged(call: Call) -> None:
    messages = ["-x", '{"a":[1,"é"]}', "-x", "no json", "-x", "[" * 9999]
    with serving(echoing(3)) as port:
        done = call(f"ws://127.0.0.1:{port}/", "--json", *INF, *messages)
    assert done.stdout.decode().startswith('{\n  "a": [\n    1,\n    "é"\n  ]\n}\nno json\n[[[')


def test_binary_input_is_one_message_and_output_raw(url: str) -> None:
    data = bytes(range(256)) * 1000
    done = run("connect", url, "-b", "-1", stdin=data)
    assert (done.stdout, done.returncode) == (data, 0)


def test_commands_in_a_pipe_send_files(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_bytes(b"\x00\x1b[31mred")
    with serving(echoing(3)) as port:
        url = f"ws://127.0.0.1:{port}/"
        done = run("connect", url, "-c", *INF, stdin=f"@{file}\n/ping x\n//text\n@@home\n")
    dump = b"00000000  00 1b 5b 33 31 6d 72 65  64" + b" " * 23 + b"|..[31mred|\n"
    assert done.stdout == dump + b"/text\n@home\n"


def test_output_file_gets_the_binary_messages(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "out"
    frames = binary(b"\x00one"), text("two"), binary(b"three"), close(1000)
    with serving(replying(*frames)) as port:
        done = call(f"ws://127.0.0.1:{port}/", *INF, "-o", str(file), "-x", "go")
    assert (done.stdout, file.read_bytes()) == (b"two\n", b"\x00onethree")


@pytest.mark.parametrize(
    ("frame", "code", "shown"),
    [
        (close(1000, "bye"), 0, ""),
        (close(1001), 0, ""),
        (close(), 0, ""),
        (close(1011, "out\x1b[31m"), 3, "closed by the peer: 1011 (internal error) out\\x1b[31m\n"),
        (close(4999), 3, "closed by the peer: 4999\n"),
    ],
)
def test_close_code_of_the_peer_decides_the_exit_code(
    call: Call, frame: Frame, code: int, shown: str
) -> None:
    with serving(replying(text("last"), frame)) as port:
        done = call(f"ws://127.0.0.1:{port}/", *INF, "-x", "hello")
    assert (done.stdout, done.stderr.decode(), done.returncode) == (b"last\n", shown, code)


def test_lost_connection_is_an_error(call: Call) -> None:
    with serving(lambda sock, head: sock.sendall(upgrade(head))) as port:
        done = call(f"ws://127.0.0.1:{port}/", *INF, "-x", "hello")
    assert done.returncode == 3
    assert b"the connection was lost: 1006" in done.stderr


def test_close_of_the_peer_ends_a_command_whose_input_goes_on() -> None:
    ours, theirs = os.pipe()
    try:
        with serving(sending(close(1000))) as port:
            done = subprocess.run(
                [*COMMAND, "connect", f"ws://127.0.0.1:{port}/"],
                stdin=ours,
                capture_output=True,
                timeout=TIMEOUT_S,
                env=environment(),
                check=False,
            )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.stderr, done.returncode) == (b"", 0)


def test_closed_output_ends_the_command(url: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "connect", url, *INF],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"one\n"
        process.stdout.close()
        process.stdin.write(b"two\n")
        process.stdin.flush()
        assert process.wait(TIMEOUT_S) == 0
        assert process.stderr.read() == b""


def test_ctrl_c_closes_with_1000(echo: Program, url: str) -> None:
    seen = len(echo.log())
    with start_interruptible("connect", url, *INF, "-x", "hello") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
    echo.wait_for_log("1000", seen)


def test_options_of_the_handshake_are_sent(call: Call) -> None:
    heads: list[bytes] = []

    options = ["-H", "X-One: 1", "-H", "Cookie: a=b", "-s", "chat", "-s", "more"]
    with serving(lambda _, head: heads.append(head)) as port:
        url = f"http://127.0.0.1:{port}/path?q"
        done = call(url, *options, "--origin", "https://example.com", "-x", "hello")
    assert done.returncode == 1
    (head,) = heads
    assert head.startswith(b"GET /path?q HTTP/1.1\r\n")
    expected = {
        "X-One": "1",
        "Cookie": "a=b",
        "Origin": "https://example.com",
        "Sec-WebSocket-Protocol": "chat, more",
    }
    assert {name: header(head, name) for name in expected} == expected
    assert header(head, "Sec-WebSocket-Extensions").startswith("permessage-deflate")


def test_refused_handshake_is_explained_in_a_line(call: Call) -> None:
    with serving(answering("403 Forbidden", "<b>no\x1b[2J</b>")) as port:
        done = call(f"ws://127.0.0.1:{port}/", "-x", "hello")
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines == [
        "the handshake failed: the server answered with HTTP status 403: <b>no\\x1b[2J</b>",
        f"`websocket-handler doctor ws://127.0.0.1:{port}/` examines the server.",
    ]


def test_password_of_the_url_is_not_shown(call: Call) -> None:
    done = call(f"ws://me:hunter2@127.0.0.1:{free_port()}/", "-x", "hello")
    assert b"doctor ws://\xe2\x80\xa6@127.0.0.1:" in done.stderr
    assert b"hunter2" not in done.stderr


def test_page_of_a_refusal_is_shown_without_tags(call: Call) -> None:
    page = "<!doctype html><title>403</title><h1>Forbidden</h1>\n<p>Log in <b>first</b>.</p>"
    headers = {"Content-Type": "text/html; charset=utf-8"}
    with serving(answering("403 Forbidden", page, headers)) as port:
        done = call(f"ws://127.0.0.1:{port}/", "-x", "hello")
    assert b"HTTP status 403: Forbidden Log in first .\n" in done.stderr


def test_server_that_never_answers_is_left_in_time(call: Call) -> None:
    with serving(lambda sock, _: sock.recv(1)) as port:
        done = call(f"ws://127.0.0.1:{port}/", "--timeout", "0.3", "-x", "hello")
    assert done.returncode == 1
    assert done.stderr.startswith(b"cannot connect: ")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("127.0.0.1:{port}", "cannot connect to 127.0.0.1:{port}: Connection refused\n"),
        ("nowhere.invalid", "cannot resolve the name nowhere.invalid: "),
    ],
)
def test_unreachable_server_is_reported(call: Call, place: str, message: str) -> None:
    port = free_port()
    done = call(place.format(port=port), "-x", "hello")
    assert done.returncode == 1
    assert done.stderr.decode().startswith(message.format(port=port))
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ws://"], "'ws://' is not a ws: or wss: URL"),
        (["ftp://host/"], "is not a ws: or wss: URL"),
        (["ws://host/#part"], "must not have a fragment"),
        (["ws://host", "-H", "no colon"], "is not of the form"),
        (["ws://host", "-H", "Host: other"], "set by the handshake itself"),
        (["ws://host", "-H", "X: a\nb"], "must not contain"),
        (["ws://host", "-s", "a b"], "cannot be the name of a subprotocol"),
        (["ws://host", "--protocol-version", "hixie-1"], "'hixie-1' is not one of"),
        (["ws://host", "--protocol-version", "hixie-76", "-s", "a", "-s", "b"], "subprotocol"),
        (["ws://host", "--wait", "-1"], "-1"),
        (["ws://host", "--wait", "nan"], "'nan' is not a number of seconds"),
        (["ws://host", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["ws://host", "-o", "/no/such/file"], "'/no/such/file': No such file or directory"),
        (["wss://host", "--ca", __file__], f"{__file__} has no certificates in PEM format"),
        (["ws://host:99999"], "the port of 'host' is not a number"),
        ([], "Missing argument 'URL'"),
    ],
)
def test_invalid_option_is_a_usage_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(["connect", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (b"\xff\n", "the input is not UTF-8"),
        (b"@/nowhere\n", "/nowhere: No such file or directory"),
        (b"/nothing\n", "unknown command /nothing"),
        (b"/close 9\n", "must not be sent"),
    ],
)
def test_invalid_input_is_a_usage_error(url: str, stdin: bytes, message: str) -> None:
    done = run("connect", url, "-c", "-w", "0", stdin=stdin)
    assert done.returncode == 2
    assert message in done.stderr.decode()


def test_limit_of_this_side_is_named(call: Call, url: str) -> None:
    done = call(url, "-1", "-x", "hello", "--max-size", "4")
    expected = "closed: 1009 (message too big) message is too big: our max_message_size=4 bytes\n"
    assert (done.returncode, done.stderr.decode()) == (3, expected)


def test_messages_of_options_are_sent_also_with_binary(call: Call, url: str) -> None:
    done = call(url, "-1", "--binary", "-x", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


@pytest.mark.parametrize(
    ("closed", "stdout"), [("<&-", b"hello\n"), (">&-", b""), ("<&- >&- 2>&-", b"")]
)
def test_standard_streams_may_be_closed(url: str, closed: str, stdout: bytes) -> None:
    command = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *COMMAND, "connect", "-1", "-x", "hello", url],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, stdout, b"")


def test_closed_stdin_has_no_lines(url: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "connect", "-w", "0", url],
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_messages_of_a_feed_arrive_without_input(echo: Program) -> None:
    with start_interruptible("connect", echo.url("/stats"), *INF) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"')
        assert process.stdout.readline().startswith(b'{"')
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
