"""`websocket-handler connect` on a terminal."""

from __future__ import annotations

from pathlib import Path

from ..support.programs import Program, demo
from ..support.raw_client import text
from .processes import terminal
from .servers import sending, serving

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


def test_conversation_shows_messages_pongs_and_the_close(url: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\x00\xffbinary")
    with terminal(tmp_path, "connect", url, "--json") as shown:
        shown.wait_for("connected to")
        shown.wait_for_prompt()
        for line, answer in [
            ("hello", "< hello"),
            ('{"a":1}', '"a": 1'),
            (f"@{file}", "|..binary|"),
            ("//slash", "< /slash"),
            ("/ping x", "pong after "),
            ("/help", "send the content of a file"),
            ("/nothing", "unknown command /nothing"),
            ("@/nowhere", "/nowhere: No such file"),
            ("/close 1", "close code 1 must not be sent"),
        ]:
            shown.type(f"{line}\r")
            shown.wait_for(answer)
        shown.type("/close 4001 enough\r")
        assert shown.wait() == 0
        assert "closed: 4001 enough" in shown.screen()
        assert "\x1b[1;34m" in shown.raw()  # colours
        assert "Traceback" not in shown.screen()


def test_ctrl_d_closes_with_1000(echo: Program, url: str, tmp_path: Path) -> None:
    seen = len(echo.log())
    with terminal(tmp_path, "connect", url, NO_COLOR="1") as shown:
        shown.wait_for_prompt()
        shown.type("hello\r")
        shown.wait_for("< hello")
        shown.type(CTRL_D)
        assert shown.wait() == 0
        assert "closed: 1000 (normal closure)" in shown.screen()
        assert "[1;34m" not in shown.raw()
    echo.wait_for_log("1000", seen)


def test_ctrl_c_clears_the_line_and_then_closes(url: str, tmp_path: Path) -> None:
    with terminal(tmp_path, "connect", url) as shown:
        shown.wait_for_prompt()
        shown.type(f"not this{CTRL_C}but this\r")
        shown.wait_for("< but this")
        assert "< not this" not in shown.screen()
        shown.type(CTRL_C)
        assert shown.wait() == 0


def test_history_is_kept_for_the_next_session(url: str, tmp_path: Path) -> None:
    for keys in ("remembered\r", f"{UP}\r"):
        with terminal(tmp_path, "connect", url) as shown:
            shown.wait_for_prompt()
            shown.type(keys)
            shown.wait_for("< remembered")
            shown.type(CTRL_D)
            assert shown.wait() == 0
    file = tmp_path / "websocket-handler" / "history"
    assert file.stat().st_mode & 0o777 == 0o600


def test_control_characters_of_the_peer_are_escaped(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x9b31m\u202efdp\n< forged"
    with (
        serving(sending(text(evil))) as port,
        terminal(tmp_path, "connect", f"ws://127.0.0.1:{port}/") as shown,
    ):
        shown.wait_for("forged")
        assert "< \\x1b]0;title\\x07\\x9b31m\\u202efdp" in shown.screen()
        assert "\n  < forged" in shown.screen()
        assert evil.partition("\n")[0] not in shown.raw()


def test_close_of_the_peer_ends_the_prompt(tmp_path: Path) -> None:
    with demo() as program, terminal(tmp_path, "connect", program.url("/echoserver")) as shown:
        shown.wait_for_prompt()
        shown.type("half a line")
        assert program.end() == 0
        assert shown.wait() == 0
        assert "closed by the peer: 1001 (going away)" in shown.screen()
