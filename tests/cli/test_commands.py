"""The commands of `websocket-handler`: help, completion, and without the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from websocket_handler import __main__ as program
from websocket_handler import __version__

from ..support.programs import Program, running
from ..support.raw_client import RawClient, text
from .processes import TIMEOUT_S, environment, run

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))
from websocket_handler.__main__ import main
code = main(sys.argv[1:])
print(sorted({{"click", "prompt_toolkit", "rich"}} & sys.modules.keys()))
sys.exit(code)
"""
"""Imports of the packages that are missing fail."""


def run_without(*missing: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(),
        check=False,
    )


@pytest.mark.parametrize("arguments", [["connect", "ws://host"], ["doctor"], ["--help"]])
def test_command_without_the_extra_names_the_installation(arguments: list[str]) -> None:
    done = run_without("click", "rich", arguments=arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("This command needs click, rich: pip install 'websocket-handler[cli]'")


def test_demo_works_without_the_extra() -> None:
    code = WITHOUT.format(missing=program.EXTRA)
    command = ["-c", code, "demo", "--port", "0"]
    with running(Program(command, r"http://localhost:(\d+)/echotest\.html is ready")) as demo:
        with RawClient(demo.address) as client:
            client.open("/echoserver").echo(text("hello"))
        assert demo.end() == 0


def test_demo_imports_no_package_of_the_extra() -> None:
    code = WITHOUT.format(missing=())
    with running(Program(["-c", code, "--port", "0"], r":(\d+)/echotest")) as demo:
        assert demo.end() == 0
        assert demo.log().endswith("[]\n")


@pytest.mark.parametrize(
    ("arguments", "is_demo"),
    [
        ([], True),
        (["--port", "1"], True),
        (["demo", "--help"], True),
        (["--help"], False),
        (["--version"], False),
        (["connect"], False),
        (["nonsense"], False),
    ],
)
def test_demo_is_the_default_command(arguments: list[str], is_demo: bool) -> None:
    assert program.is_for_demo(arguments) == is_demo


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, ["connect", "demo", "doctor"]),
        (["--version"], 0, [__version__]),
        (["connect", "--help"], 0, ["/close [CODE [REASON]]", "Exit codes"]),
        (["doctor", "--help"], 0, ["Exit codes"]),
        (["demo", "--help"], 0, ["--window"]),
        (["nonsense"], 2, ["No such command 'nonsense'"]),
    ],
)
def test_help_and_unknown_commands(
    arguments: list[str], code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:  # raised by argparse, after its help
        sys.exit(program.main(arguments))
    assert end.value.code == code
    shown = "".join(capsys.readouterr())
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("websocket-handler d", {"demo", "doctor"}),
        ("websocket-handler demo --w", {"--window"}),
        ("websocket-handler connect --protocol-version hixie", {"hixie-76", "hixie-75"}),
    ],
)
def test_shell_completes_commands_options_and_versions(words: str, completions: set[str]) -> None:
    done = run(
        _WEBSOCKET_HANDLER_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - 1),
    )
    found = {line.partition(",")[2] for line in done.stdout.decode().splitlines()}
    assert found == completions


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_script_is_printed(shell: str) -> None:
    done = run(_WEBSOCKET_HANDLER_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert b"_WEBSOCKET_HANDLER_COMPLETE" in done.stdout
