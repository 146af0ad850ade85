"""The commands of the command line, with their options and help, built with click."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import click

from .. import __version__
from ..errors import WebSocketError
from ..protocol.request import check_field
from ..protocol.versions import ALL_VERSIONS, DEFAULT_VERSIONS, OTHER_NAMES, by_name
from . import demo
from .actions import COMMANDS
from .connect import REPLY_TIMEOUT_S, WAIT_S, ExitCode, Options
from .connect import run as run_connect
from .target import Target, websocket_url

VERSION_NAMES = [version.name for version in ALL_VERSIONS] + list(OTHER_NAMES)

CONNECT_HELP = f"""Open a WebSocket to URL; send lines and show the received messages.

On a terminal, each line is sent as a text message, except for these commands:

\b
{chr(10).join(f"{name:<23} {meaning}" for name, meaning in COMMANDS.items())}

Ctrl-C clears the line; Ctrl-D, or Ctrl-C on an empty line, closes with 1000.

In a pipe, each line of stdin is a text message (commands only with --commands). After the end of
stdin, messages are received for the time of --wait; then the connection is closed.

\b
Exit codes:
  0    the connection was closed normally
  1    it could not be opened
  2    an option, the input or the output is invalid
  3    it was lost, or the peer closed it with an error code
  4    no reply arrived in time (with --one)
  130  Ctrl-C, without a prompt
"""

DOCTOR_HELP = """Examine step by step why a WebSocket to URL does not work.

Checks the name, TCP, TLS, the answer to the handshake, the Origin of a browser, the subprotocol,
compression, the round trip of pings, and the closing handshake. Each problem has a cure.

\b
Exit codes:
  0  everything is well
  1  there is a problem
  2  an option is invalid
"""


def run(arguments: list[str]) -> int:
    """Run a command; returns the exit code of the process."""
    open_standard_streams()
    logging.getLogger("websocket_handler").setLevel(logging.ERROR)  # the commands report the rest
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # it may lack characters of a peer
    try:
        return int(command_line.main(arguments, "websocket-handler", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED


def open_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that the caller has closed. Otherwise a
    socket would get its descriptor, and Python has None for it."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="websocket-handler")
def command_line() -> None:
    """WebSockets from the command line. Without a command, `demo` is run."""


def demo_command(**options: Any) -> int:
    return demo.serve(**options)


command_line.add_command(
    click.Command(
        "demo",
        callback=demo_command,
        help=demo.DESCRIPTION,
        short_help="Serve an echo test page.",
        params=[
            click.Option([name], type=kind, default=default, help=text, show_default=True)
            for name, kind, default, text in demo.OPTIONS
        ],
    )
)


class Seconds(click.FloatRange):
    """A number of seconds. `click.FloatRange` accepts "nan", which is in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


def parse_header(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> Any:
    """Return the name and the value of each "Name: value"."""
    fields = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise click.BadParameter(f"{text!r} is not of the form 'Name: value'")
        try:
            check_field(name, value.strip())
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        fields.append((name, value.strip()))
    return tuple(fields)


TARGET_PARAMETERS = (
    click.argument("url"),
    click.option(
        "-H",
        "--header",
        "headers",
        multiple=True,
        metavar="'NAME: VALUE'",
        callback=parse_header,
        help="A header of the handshake, such as 'Authorization: Bearer …'. Can be repeated.",
    ),
    click.option("--origin", help="The Origin header, such as https://example.com."),
    click.option(
        "-s",
        "--subprotocol",
        "subprotocols",
        multiple=True,
        metavar="NAME",
        help="A subprotocol to offer. Can be repeated.",
    ),
    click.option(
        "--compression/--no-compression",
        default=True,
        show_default=True,
        help="Offer permessage-deflate.",
    ),
    click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file with certificates of authorities to trust for wss:.",
    ),
    click.option("-k", "--insecure", is_flag=True, help="Accept any certificate for wss:."),
)


def with_target(command: Callable[..., int]) -> Callable[..., int]:
    """Add the parameters that describe the server and the handshake."""
    for parameter in reversed(TARGET_PARAMETERS):
        command = parameter(command)
    return command


def make_target(url: str, **options: Any) -> Target:
    """Return the target of a command. Raises `click.UsageError` if an option is not valid."""
    target = Target(websocket_url(url), **options)
    try:
        target.handshake(target.origin)
        target.proxy()
        if target.address().secure:
            target.tls_context()
    except (ValueError, WebSocketError, OSError) as error:
        raise click.UsageError(str(error)) from None
    return target


@command_line.command(help=CONNECT_HELP, short_help="Open a WebSocket; send lines, show messages.")
@with_target
@click.option(
    "--version",
    "--protocol-version",
    "version",
    type=click.Choice(VERSION_NAMES, case_sensitive=False),
    default=DEFAULT_VERSIONS[0].name,
    show_default=True,
    metavar="NAME",
    help=f"The version of the protocol: {', '.join(version.name for version in ALL_VERSIONS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Pretty-print messages that are JSON.")
@click.option(
    "-x",
    "--send",
    "messages",
    multiple=True,
    metavar="TEXT",
    help="Send this message instead of reading stdin. Can be repeated.",
)
@click.option("-c", "--commands", "has_commands", is_flag=True, help="Commands also in a pipe.")
@click.option(
    "-b",
    "--binary",
    "is_binary",
    is_flag=True,
    help="Send all of stdin as one binary message; write received messages as they are.",
)
@click.option(
    "-o",
    "--output",
    type=click.File("wb", lazy=False),
    help="Write received binary messages to this file instead of showing a hexdump.",
)
@click.option("-1", "--one", is_flag=True, help="Close after the first received message.")
@click.option(
    "-w",
    "--wait",
    type=Seconds(min=0),
    metavar="SECONDS",
    help="Receive for this time after the last message was sent, or 'inf': until the peer closes. "
    f"Default: {WAIT_S:g}; {REPLY_TIMEOUT_S:g} with --one.",
)
@click.option(
    "--timeout",
    type=Seconds(min=0, min_open=True, max=3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="The time limit of the connection and the handshake.",
)
@click.option(
    "--max-size",
    "max_message_size",
    type=click.IntRange(min=0),
    default=1 << 24,
    show_default=True,
    metavar="BYTES",
    help="The size of the largest message to receive.",
)
def connect(
    version: str,
    as_json: bool,
    messages: tuple[str, ...],
    has_commands: bool,
    is_binary: bool,
    output: IO[bytes] | None,
    one: bool,
    wait: float | None,
    **target: Any,
) -> int:
    options = Options(messages, is_binary, has_commands, as_json, output, one, wait)
    return run_connect(make_target(version=by_name(version), **target), options)


@command_line.command(help=DOCTOR_HELP, short_help="Find out why a WebSocket does not work.")
@with_target
@click.option(
    "-x",
    "--send",
    "message",
    metavar="TEXT",
    help="Send this message too, and measure the time until a message arrives.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--timeout",
    type=Seconds(min=0, min_open=True, max=3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="The time limit of each step.",
)
def doctor(message: str | None, as_json: bool, timeout: float, **options: Any) -> int:
    from .doctor.examination import Examination
    from .doctor.report import show, show_json

    target = make_target(**options)
    findings = Examination(target, timeout, message).run()
    return 0 if (show_json if as_json else show)(target.shown_url, findings) else 1
