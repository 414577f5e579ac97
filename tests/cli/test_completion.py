"""`callback-agent completion`: what a key press completes, in real shells on a terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from agent import cli
from agent.core.event import NAMES, TYPES
from cli.stand_in import SOON, Run, StandIn, answered, callback

#: By metavar: the type of what completes such a value.
EXPECTED = {
    "FILE": "file",
    "DIR": "dir",
    "DIRS": "dir",
    "[DIR]": "dir",
    "LISTED": "dir",
    "[PATH]...": "dir",
    "EVENT": "part",
    "[TOPIC|CODE]": "plain",
}


def completed(run: Run, line: str, **environ: str) -> list[list[str]]:
    """The items, each with its type, for the last word of a line."""
    words = line.split(" ")
    described = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = run(_CALLBACK_AGENT_COMPLETE="bash", **described, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return [item.split(",", 1) for item in done.stdout.splitlines()]


def test_an_event_is_completed_field_by_field(run: Run) -> None:
    def step(word: str) -> list[list[str]]:
        return completed(run, f"callback-agent lookup {word}")

    assert step("") == [["part", f"{name}-"] for name in sorted(NAMES)]
    assert step("odd-") == [["part", f"odd-{kind}-"] for kind in TYPES]
    assert step("failed-job-p") == [["plain", "failed-job-parent"]]
    assert step("failed-work-") == [["part", f"failed-work-{c}-"] for c in ("self", "parent")]
    assert step("failed-jbo-") == step("failed-work-self-") == []


def test_files_that_are_served_are_completed_and_no_agent_is_silent(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    agent.well("list", answered(callback(), callback("logFailuresToDB.py", 6), callback(line=9)))
    line = f"callback-agent log --pipe {agent.path} --path"
    assert completed(run, f"{line} mail") == [["plain", "mail-status.qcb"]]
    by_variable = {"CALLBACK_AGENT_PIPE": agent.path}
    assert completed(run, "callback-agent log --path /farm/callback/l", **by_variable) == [
        ["plain", "/farm/callback/logFailuresToDB.py"]
    ]
    agent.answers["list"] = {"callbacks": 5}
    assert completed(run, f"{line} mail") == []
    assert completed(run, f"callback-agent log --pipe {tmp_path}/none --path mail") == []


def test_directories_after_a_comma_are_completed(run: Run, tmp_path: Path) -> None:
    for name in ("farm-a", "farm-b", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "farm-file").touch()
    line = "callback-agent check --callback-path"
    assert completed(run, f"{line} /x,{tmp_path}/fa") == [
        ["part", f"/x,{tmp_path}/farm-a/"],
        ["part", f"/x,{tmp_path}/farm-b/"],
    ]
    assert completed(run, f"{line} /x,ot") == [["part", "/x,other/"]]
    assert completed(run, f"{line} /x,/none/") == []


@pytest.mark.parametrize("name", sorted(cli._COMMANDS))
def test_every_value_of_a_command_that_can_be_completed_is(name: str) -> None:
    command = cli.commands.get_command(click.Context(cli.commands), name)
    assert command is not None
    context = click.Context(command)
    of_group = command.commands.values() if isinstance(command, click.Group) else ()
    for parameter in [one for each in (command, *of_group) for one in each.params]:
        expected = EXPECTED.get(str(parameter.metavar))
        found = {item.type for item in parameter.shell_complete(context, "")}
        if isinstance(parameter.type, click.Choice):
            expected = "plain"
        if expected is not None:
            assert found == {expected}, parameter.name


def test_the_variable_of_the_scripts_alone_is_bad_usage(run: Run) -> None:
    for changed in ({"_CALLBACK_AGENT_COMPLETE": "bash"}, {"_CALLBACK_AGENT_COMPLETE": "csh"}):
        done = run("status", **changed)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# -- in real shells -------------------------------------------------------------------------------

#: What shells ask for a command with, once what prepares them is done.
PROMPT = b"ready> "
#: By shell: how it is started without the files of this user, and what prepares it. Typed keys are
#: shown too, so they do not contain the prompt.
SHELLS = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        """eval "$(callback-agent completion bash)"; PS1='rea''dy> '""",
    ),
    "zsh": (
        ["-f", "-i"],
        "unsetopt auto_remove_slash; autoload -Uz compinit; compinit -D -u;"
        """ eval "$(callback-agent completion zsh)"; PS1='rea''dy> '""",
    ),
    "fish": (
        ["--no-config", "-i"],
        "callback-agent completion fish | source; function fish_prompt; echo -n 'rea''dy> '; end",
    ),
}

#: What is typed, a tab being the key that completes, and the words that it must become.
TYPED = [
    ("sta\t", "status"),
    ("lookup fai\two\ts\t", "lookup failed-work-self-"),
    ("explain x-job-p\t--js\t", "explain x-job-parent --json"),
    ("help troub\t", "help troubleshooting"),
    ("help no-eq\t", "help no-equals"),
    ("check odd_f\t", "check odd_folder/"),
    ("log --log odd_fi\t-n 1", "log --log odd_file -n 1"),
    ("serve --log-format j\t", "serve --log-format json"),
    ("completion f\t", "completion fish"),
]


class Terminal:
    """A shell on a terminal."""

    def __init__(self, shell: str, folder: Path, environment: dict[str, str]) -> None:
        options, prepare = SHELLS[shell]
        self.read = b""
        self.ours, theirs = pty.openpty()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.process = subprocess.Popen(
            [shell, *options],
            cwd=folder,
            env={**environment, "PATH": path, "PS1": "", "HISTFILE": ""},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            # The terminal controls the shell, so that it edits lines.
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(theirs)
        self.type(f"{prepare}\r")
        self.wait_for(PROMPT)

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def wait_for(self, text: bytes) -> bytes:
        """Read until the terminal shows a text, and go on after it. Returns what is before it."""
        end = time.monotonic() + SOON
        while text not in self.read:
            ready, _, _ = select.select([self.ours], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.read!r}"
            self.read += os.read(self.ours, 1 << 16)
        before, _, self.read = self.read.partition(text)
        return before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_key_completes_in_a_real_shell(
    shell: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    folder = tmp_path / "here"
    (folder / "odd_folder").mkdir(parents=True)
    (folder / "odd_file").touch()
    terminal = Terminal(shell, folder, environment)
    try:
        for typed, expected in TYPED:
            terminal.type(f"callback-agent {typed}")
            # To the beginning of the line, whose words are then printed.
            terminal.type("\x01printf '<%s>' \r")
            terminal.wait_for("".join(f"<{w}>" for w in expected.split()).encode())
            terminal.wait_for(PROMPT)
    finally:
        terminal.close()


def test_bash_lists_what_is_possible(tmp_path: Path, environment: dict[str, str]) -> None:
    terminal = Terminal("bash", tmp_path, environment)
    try:
        terminal.type("callback-agent lookup failed-job-\t\t")
        listed = terminal.wait_for(PROMPT)
        assert {b"failed-job-parent", b"failed-job-self"} <= {*listed.split()}
        assert b"command not found" not in listed
    finally:
        terminal.close()
