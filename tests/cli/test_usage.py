"""Help, the version, and errors of usage: what was found, what was expected, where to read more."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent import cli
from cli.stand_in import ROOT, SOON, Run

COMMANDS = sorted(cli._COMMANDS)


def help_of(*words: str) -> str:
    shown = CliRunner().invoke(cli.commands, [*words, "--help"], "callback-agent")
    assert shown.exit_code == 0
    return shown.output


def test_the_version_is_that_of_the_distribution(run: Run) -> None:
    done = run("--version")
    assert done.stdout == f"callback-agent {metadata.version('callback-agent')}\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_fits_80_columns(words: list[str]) -> None:
    text = help_of(*words)
    assert text == CliRunner().invoke(cli.commands, [*words, "-h"], "callback-agent").output
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"\[[^]]*[<>]=", text), "a range as click writes it"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_the_exit_statuses_in_a_paragraph_of_their_own(name: str) -> None:
    """The man page has a section of them."""
    command = cli.commands.get_command(click.Context(cli.commands), name)
    assert command is not None
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    statuses = [text for text in paragraphs if "Exit status" in text]
    assert [text for text in statuses if not text.startswith("Exit status: 0 ")] == []
    assert statuses in ([], paragraphs[-1:])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lokup"], "unknown command lokup; did you mean lookup?; see callback-agent --help"),
        (["--pipe", "x", "list"], "unknown option --pipe; options follow the command: "),
        (["list", "--jsn"], "unknown option --jsn; did you mean --json?; see callback-agent l"),
        (["list", "extra"], "got unexpected extra argument (extra); see callback-agent list --h"),
        (["lookup"], "EVENT is missing; see callback-agent lookup --help"),
        (["lookup", "x", "--job", "seven"], "--job: 'seven' is not a whole number from 0 up; see"),
        (["lookup", "x", "--job", "\u00b2"], "--job: '\u00b2' is not a whole number from 0 up; se"),
        (["lookup", "x-job-parent", "--job", "4"], "EVENT is x-job-parent; with --job"),
        (["check", "--qb-conf"], "option '--qb-conf' requires an argument; see callback-agent ch"),
        (["serve", "--log-format", "xml"], "--log-format: 'xml' is not one of 'text', 'json'; se"),
        (["check", "/x", ""], "PATH is empty, as where a variable of the shell is not set; give"),
        (["diff", ""], "DIR is empty, as where"),
        (["diff", "", "--replaces", "/x"], "DIR is empty"),
        (["diff", "/x", "--replaces", ""], "--replaces is empty"),
        (["diff", "--events", ""], "--events is empty"),
        (["lookup", ""], "EVENT is empty"),
        (["explain", "done-job-self", "--occurred", ""], "--occurred is empty"),
        (["fire", "done-job-self", "--jobs", ""], "--jobs is empty"),
        (["help", ""], "TOPIC is empty"),
        (["log", "--path", ""], "--path is empty"),
        (["a\x1b[2J"], r"unknown command a\x1b[2J; expected check, "),
    ],
    ids=str,
)  # fmt: skip
def test_an_error_of_usage_is_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(f"callback-agent: {expected}")
    assert "--help" in shown.err


def test_a_bad_value_of_a_variable_names_the_variable(run: Run) -> None:
    done = run("serve", CALLBACK_AGENT_LOG_FORMAT="yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("callback-agent: CALLBACK_AGENT_LOG_FORMAT: 'yaml' is not one of")


def test_without_a_command_it_shows_the_help_as_an_error(run: Run) -> None:
    """What the list of commands says of each is not cut."""
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == run("-h").stdout
    assert [line for line in done.stderr.splitlines() if re.search(r"\w\.\.\.$", line)] == []
    assert re.search("^  lookup +Show", done.stderr, re.MULTILINE)


def test_the_command_and_the_module_are_the_same_program(tmp_path: Path) -> None:
    def shown(*program: str) -> str:
        done = subprocess.run(
            [*program, "log", "--help"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SOON,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    command = Path(sys.executable).with_name("callback-agent")
    assert shown(sys.executable, "-m", "agent") == shown(str(command))
