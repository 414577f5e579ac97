"""The README holds: its commands and programs print what it shows, and it leaves nothing out.

How the README is written for this test:

- A block ```console is run, line by line, in one shell that lasts from the first block to the last
  and starts in the project's folder. `$ ` begins a command, `> ` goes on with it; what follows is
  all that it prints, errors too.
- `...` in what is printed stands for the rest of the line; on a line of its own, for any lines.
- A block ```python is a program; its first line, `# name.py`, says under which name it is saved in
  /tmp/farm. A command must run it.
- A block ```sh is not run.
- /tmp/farm stands for a folder of the test's own.
- After each command the test waits until the agent has taken what it changed, as a person is slow
  enough to do.

Times, durations, process ids, the host's name and digests differ from run to run. They must have
the same form; and whatever of the last three is written twice in the README must be the same twice
here, and what differs there must differ here.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from agent import cli, client, pipe, protocol, settings
from agents import DEADLINE, wait_for

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: As the README has it. It is never used as it is.
FARM = "/tmp/farm"

#: Seconds that one command may take. Some dozens are run, and the machine may be busy.
PATIENCE = 3 * DEADLINE
pytestmark = pytest.mark.timeout(600)

#: What the README shows was made on Linux: events, leases, socat.
linux = pytest.mark.skipif(sys.platform != "linux", reason="the README's session was made on Linux")

# -- reading the README ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the number of its first line in the README, its lines."""

    language: str
    line: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the lines that it is said to print."""

    line: int
    text: str
    printed: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A Python program to be saved under a name."""

    line: int
    name: str
    text: str


def blocks(readme: str) -> list[Block]:
    """Every fenced block of a README."""
    found: list[Block] = []
    language: str | None = None
    lines: list[str] = []
    for number, line in enumerate(readme.splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line[3:].strip(), []
        else:
            found.append(Block(language, number - len(lines), tuple(lines)))
            language = None
    assert language is None, "a block is not closed"
    return found


def steps(readme: str) -> list[Command | Program]:
    """The commands and programs of a README, in order."""
    found: list[Command | Program] = []
    for block in blocks(readme):
        if block.language == "python":
            name = re.fullmatch(r"# (\w+\.py)", block.lines[0])
            assert name, f"line {block.line}: a program begins with its name, `# name.py`"
            found.append(Program(block.line, name[1], "\n".join(block.lines) + "\n"))
        elif block.language == "console":
            found += commands(block)
        else:
            assert block.language == "sh", f"line {block.line}: sh, console or python expected"
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    assert block.lines[0].startswith("$ "), f"line {block.line}: a command is expected here"
    found: list[Command] = []
    for number, line in enumerate(block.lines, block.line):
        if line.startswith("$ "):
            found.append(Command(number, line[2:], ()))
            continue
        last = found[-1]
        if line.startswith("> ") and not last.printed:
            found[-1] = Command(last.line, f"{last.text}\n{line[2:]}", ())
        else:
            found[-1] = Command(last.line, last.text, (*last.printed, line))
    return found


# -- comparing ------------------------------------------------------------------------------------

#: What differs from run to run. Of those in SAME, the same text stands for the same thing.
VARYING = {
    "digest": r"sha256:[0-9a-f]{64}",
    "process": r"(?<=\] )[\w.-]+\[\d+\](?=: )|(?<=, pid )\d+(?=, )",
    "local_time": r"(?<=^\[)[A-Z][a-z]{2} \d{2}, \d{4} \d{2}:\d{2}:\d{2}(?=\] )",
    "utc": r'(?<="time":")\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z(?=",)',
    "duration_ms": r'(?<="duration_ms":)\d+(?:\.\d+)?(?=,)',
    "uptime": r"(?<=, up )\d+ (?:min|s)(?: \d+ s)?(?=, )",
    "duration": r"(?<=\()\d+(?= ms\)$)",
}
SAME = {"digest", "process"}
_VARYING = re.compile("|".join(f"(?P<{name}>{form})" for name, form in VARYING.items()))


@dataclass
class Comparison:
    """Compares what was printed with what the README says, and remembers what stood for what."""

    stood_for: dict[str, str] = field(default_factory=dict)

    def agree(self, said: tuple[str, ...], printed: tuple[str, ...]) -> bool:
        """Whether the lines that were printed are those that the README has."""
        pattern = ""
        names: list[str | None] = []
        for line in said:
            if line == "...":
                pattern += r"(?:[^\n]*\n)*?"
                continue
            at = 0
            for found in _VARYING.finditer(line):
                pattern += _literal(line[at : found.start()])
                pattern += f"({VARYING[str(found.lastgroup)]})"
                names.append(found[0] if found.lastgroup in SAME else None)
                at = found.end()
            pattern += _literal(line[at:]) + r"\n"
        text = "".join(line + "\n" for line in printed)
        match = re.fullmatch(pattern, text, re.MULTILINE)
        if match is None:
            return False
        pairs = [(n, m) for n, m in zip(names, match.groups(), strict=True) if n is not None]
        known = dict(self.stood_for)
        for name, meant in pairs:
            if known.setdefault(name, meant) != meant:
                return False
        if len(set(known.values())) != len(known):
            return False
        self.stood_for = known
        return True


def _literal(text: str) -> str:
    """The text itself, `...` in it being the rest of the line."""
    return r"[^\n]*".join(map(re.escape, text.split("...")))


# -- running --------------------------------------------------------------------------------------


class Shell:
    """One bash from the first command to the last, in a folder that stands for /tmp/farm."""

    MARK = "--8<-- end of output --8<--"

    def __init__(self, farm: Path) -> None:
        self.farm = farm
        environ = {
            name: value
            for name, value in os.environ.items()
            if name not in ("QBDIR", "NO_COLOR") and not name.startswith("CALLBACK_AGENT_")
        }
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ.get('PATH', os.defpath)}"
        environ |= {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environ,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[str, ...]:
        """The lines that a command of the README prints; waits until the agent has taken it."""
        here = command.replace(FARM, str(self.farm))
        printed = self._output(f"{{\n{here}\n}} </dev/null")
        self._settle(started=command.endswith("&"))
        text = printed.replace(str(self.farm), FARM)
        return tuple(text.removesuffix("\n").split("\n")) if text else ()

    def _output(self, script: str) -> str:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{script}\nprintf %s '{self.MARK}'\n".encode())
        stdin.flush()
        end = time.monotonic() + PATIENCE
        data = b""
        while not data.endswith(self.MARK.encode()):
            ready, _, _ = select.select([stdout], [], [], max(0.0, end - time.monotonic()))
            more = os.read(stdout.fileno(), 1 << 16) if ready else b""
            assert more, f"no end of: {script}\nit printed: {data.decode()}"
            data += more
        return data.decode().removesuffix(self.MARK)

    def _settle(self, started: bool) -> None:
        """Wait until an agent that was started answers, and has taken all that was changed."""
        socket = self.farm / "pipe"

        def settled() -> bool:
            with client.Client(str(socket), timeout=PATIENCE) as one:
                try:
                    one.reload()
                except client.NoAgent:
                    return not started
            return True

        wait_for(settled, "an answer of the agent", PATIENCE)

    def running(self) -> list[int]:
        """The processes that the session has started and not ended."""
        return [int(pid) for pid in self._output("jobs -pr").split()]

    def close(self) -> None:
        """End the shell and whatever it has started."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, AssertionError):
            self._output("kill $(jobs -pr) 2>/dev/null; wait")
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            # The session has a group of its own: nobody else is in it.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def shell() -> Iterator[Shell]:
    """A shell, ended with all that it started. Its folder is short: so must be a pipe's path."""
    above = Path(tempfile.mkdtemp(prefix="readme-", dir="/tmp"))
    one = Shell(above / "farm")
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(above)


@dataclass(frozen=True)
class Run:
    """What a command of the README printed."""

    command: Command
    printed: tuple[str, ...]


@dataclass(frozen=True)
class Session:
    """All that the README's session did, and the processes that it left behind."""

    runs: tuple[Run, ...]
    left: tuple[int, ...]
    #: Commands that were not run, for want of a program.
    not_run: tuple[Command, ...]


def carry_out(readme: str) -> Session:
    """Run the commands of a README, and save its programs."""
    runs: list[Run] = []
    not_run: list[Command] = []
    with shell() as one:
        for step in steps(readme):
            if isinstance(step, Program):
                (one.farm / step.name).write_text(step.text.replace(FARM, str(one.farm)))
            elif "socat" in step.text and shutil.which("socat") is None:
                not_run.append(step)
            else:
                runs.append(Run(step, one.run(step.text)))
        return Session(tuple(runs), tuple(one.running()), tuple(not_run))


def differences(session: Session) -> list[str]:
    """What each command printed that the README does not say."""
    comparison = Comparison()
    return [
        f"README.md:{run.command.line}: $ {run.command.text}\n"
        + "\n".join(["said:", *run.command.printed, "printed:", *run.printed])
        for run in session.runs
        if not comparison.agree(run.command.printed, run.printed)
    ]


@pytest.fixture(scope="module")
def session() -> Session:
    """The README's session, run once."""
    return carry_out(README)


@linux
def test_every_command_prints_what_the_readme_says(session: Session) -> None:
    assert session.runs
    found = differences(session)
    assert not found, "\n\n".join(found)


@linux
def test_commands_that_need_socat_were_run(session: Session) -> None:
    if session.not_run:
        pytest.skip(f"there is no socat: {len(session.not_run)} commands of the README not run")


@linux
def test_the_session_ends_what_it_starts(session: Session) -> None:
    assert session.left == ()


def test_every_program_is_run() -> None:
    programs = [step for step in steps(README) if isinstance(step, Program)]
    texts = [step.text for step in steps(README) if isinstance(step, Command)]
    assert programs
    for program in programs:
        assert any(f"python3 {FARM}/{program.name}" in text for text in texts), program.name


# -- this test can fail ---------------------------------------------------------------------------


@linux
def test_no_changed_line_passes(session: Session) -> None:
    """Every line that the README shows matters: one that is other, missing or too many fails."""
    tried = 0
    for run in session.runs:
        said = run.command.printed
        for place, line in enumerate(said):
            around = said[max(0, place - 1) : place + 2]
            if "..." in around:
                continue  # Lines beside it may be any.
            for wrong in (
                (*said[:place], f"~{line}", *said[place + 1 :]),
                (*said[:place], *said[place + 1 :]),
                (*said[:place], line, line, *said[place + 1 :]),
            ):
                assert not Comparison().agree(wrong, run.printed), (run.command, wrong)
                tried += 1
    assert tried > 100


@linux
def test_a_wrong_output_in_a_readme_is_found() -> None:
    readme = "```console\n$ echo one; echo two\none\n{}\n$ true\n```\n"
    assert differences(carry_out(readme.format("two"))) == []
    assert differences(carry_out(readme.format("..."))) == []
    (found,) = differences(carry_out(readme.format("three")))
    assert found.startswith("README.md:2: $ echo one")
    assert len(differences(carry_out(readme.replace("$ true\n", "three\n")))) == 1


@linux
def test_an_agent_that_a_readme_leaves_running_is_told_of_and_ended() -> None:
    started = carry_out("```console\n$ sleep 1000 & echo $!\n...\n```\n")
    (pid,) = started.left
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


A, B, C = ("sha256:" + digit * 64 for digit in "abc")
THEN, NOW = "[Jan 02, 2020 10:00:00]", "[Feb 03, 2021 11:11:11]"


@pytest.mark.parametrize(
    ("said", "printed", "agree"),
    [
        (["x ..."], ["x y z"], True),
        (["x ... z"], ["x y z"], True),
        (["x ... z"], ["x y"], False),
        (["a", "...", "b"], ["a", "b"], True),
        (["a", "...", "b"], ["a", "x", "y", "b"], True),
        (["a", "...", "b"], ["a", "x", "y"], False),
        (["a..."], ["a", "b"], False),
        ([], ["a"], False),
        (["a"], [], False),
        (["a.c"], ["abc"], False),
        ([A], [B], True),
        ([A], [B[:-1]], False),
        ([A, A], [B, B], True),
        ([A, A], [B, C], False),
        ([A, B], [C, C], False),
        ([f"{THEN} h[1]: x (1 ms)"], [f"{NOW} q[2]: x (25 ms)"], True),
        ([f"{THEN} h[1]: x (1 ms)"], [f"{NOW} q[2]: x (25 s)"], False),
        ([f"{THEN} h[1]: x"], [f"{NOW} q: x"], False),
        ([f"{THEN} h[1]: x"], ["[Feb 3 11:11:11] q[2]: x"], False),
        ([f"{THEN} h[1]: 5[1]: x"], [f"{NOW} q[2]: 5[2]: x"], False),
        (["v 1, pid 1, up 0 s, 1 client"], ["v 1, pid 7, up 3 s, 1 client"], True),
        (["v 1, pid 1, up 0 s, 1 client"], ["v 2, pid 7, up 3 s, 1 client"], False),
        (["v 1, pid 1, up 0 s, 1 client"], ["v 1, pid 7, up 3 s, 2 client"], False),
        (["generation 2, 3 callbacks"], ["generation 3, 3 callbacks"], False),
    ],
)  # fmt: skip
def test_what_agrees(said: list[str], printed: list[str], agree: bool) -> None:
    assert Comparison().agree(tuple(said), tuple(printed)) is agree


def test_what_stands_for_what_holds_from_command_to_command() -> None:
    comparison = Comparison()
    assert comparison.agree((A,), (B,))
    assert not comparison.agree((A,), (C,))
    assert not comparison.agree((C,), (B,))
    assert comparison.agree((A,), (B,))


# -- links ----------------------------------------------------------------------------------------


def prose(readme: str) -> str:
    """A README without its blocks."""
    return re.sub(r"^```.*?^```$", "", readme, flags=re.MULTILINE | re.DOTALL)


def anchors(readme: str) -> list[str]:
    """The anchors that GitHub gives the headings of a README."""
    headings = re.findall(r"^#+ (.+)$", prose(readme), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def bad_links(readme: str) -> list[str]:
    """The links of a README that lead nowhere."""
    known = anchors(readme)
    bad = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(readme)):
        path, _, anchor = target.partition("#")
        if path and not path.startswith("https://") and not (ROOT / path).exists():
            bad.append(target)
        if not path and known.count(anchor) != 1:
            bad.append(target)
    return bad


def test_links_lead_somewhere() -> None:
    assert bad_links(README) == []


def test_links_that_lead_nowhere_are_found() -> None:
    readme = "# One, two\n[a](#one-two) [b](#one) [c](LICENSE) [d](LICENCE)\n"
    assert bad_links(readme) == ["#one", "LICENCE"]


def test_the_table_of_contents_has_every_section_in_order() -> None:
    listed = re.findall(r"^- \[(.+)\]\(#", README, re.MULTILINE)
    assert listed == re.findall(r"^## (.+)$", prose(README), re.MULTILINE)


# -- nothing is left out --------------------------------------------------------------------------


def section(title: str) -> str:
    """The text of one section."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.M | re.DOTALL)
    assert found, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of all table rows of a section."""
    lines = (line for line in section(title).splitlines() if line.startswith("|"))
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_command_is_there() -> None:
    text = subprocess.run(
        [sys.executable, "-m", "agent", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    ).stdout
    helped = re.findall(r"^  (\w+)  ", text.partition("Commands:")[2], re.MULTILINE)
    assert "lookup" in helped
    told = [re.match(r"`(\w+)", row[0]) for row in rows("Commands")]
    assert sorted(found[1] for found in told if found) == sorted(helped)


def test_every_option_is_there() -> None:
    group = cli._commands
    assert isinstance(group, click.Group)
    for name, command in group.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                for option in parameter.opts:
                    assert re.search(rf"`[^`]*(?<![\w-]){option}(?![\w-])", README), (name, option)


def test_every_setting_is_there() -> None:
    table = rows("Settings")
    for flag, variable in settings._FLAG_AND_VARIABLE.values():
        (row,) = [row for row in table if row[2] == f"`{variable}`"]
        assert re.match(rf"`{flag} [A-Z]+|`{flag} [a-z]+\\\|", row[1]), row
    for key in (settings._QB_PATH, settings._QB_LANGUAGES):
        assert sum(row[3] == f"`{key}`" for row in table) == 1
    assert f"`{settings._QB_DIRECTORY}`" in section("Settings")


def test_every_error_code_is_there() -> None:
    modules = (protocol, pipe)
    numbers = (value for module in modules for value in vars(module).values())
    codes = {str(value) for value in numbers if isinstance(value, int) and value < -30_000}
    assert "-32602" in codes
    assert codes == {row[0] for row in rows("The pipe") if row[0].startswith("-3")}


def test_every_code_of_the_fixtures_is_there() -> None:
    expected = (path.read_text() for path in (ROOT / "fixtures").rglob("EXPECTED"))
    codes = {code for text in expected for code in re.findall(r"\[([a-z0-9-]+)\]$", text, re.M)}
    assert codes
    assert [code for code in sorted(codes) if f"`{code}`" not in section("Findings")] == []


def test_every_script_is_there() -> None:
    for path in (ROOT / "scripts").iterdir():
        if path.name != "__pycache__":
            assert f"scripts/{path.name}" in README, path.name
    for name in re.findall(r"scripts/([\w.-]*\w)", README):
        assert (ROOT / "scripts" / name).exists(), name
