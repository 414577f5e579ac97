"""Reads the README and the pages of the manual, and runs the examples in them.

How the documents are written for this:

- A block ```console is run line by line in one shell, which lasts from the first block of the
  document to the last and starts in the project's folder. `$ ` begins a command, `> ` continues
  it. The lines that follow are all that the command prints, errors included.
- `...` in the printed text stands for the rest of the line; on a line of its own, for any lines.
- A block ```python, ```perl or ```c is a program. Its first line, `# name.py`, `# name.pl` or
  `/* name.c */`, is the name under which it is saved in /tmp/farm. A later command must run it.
- A block in another language (sh, conf, json, text) is not run.
- /tmp/farm stands for a folder of the test's own.
- After each command the test waits until the agent serves what the command changed.

Times, durations, process ids, host names and digests differ from run to run. They must have the
same form. A host name, process id or digest that occurs twice in a document must be the same twice
in a run, and two that differ in the document must differ in the run.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent import client
from support.agents import DEADLINE, wait_for

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "agent" / "manual"
#: The folder that the documents use. It is never used as it is.
FARM = "/tmp/farm"
#: Languages of programs, and the comment that names one.
PROGRAMS = {"python": r"# (\w+\.py)", "perl": r"# (\w+\.pl)", "c": r"/\* (\w+\.c) \*/"}
#: Programs that may not be installed. A page whose commands begin with one is then not run.
OPTIONAL = ("socat", "perl", "gcc")
#: Languages of blocks that are shown and not run.
SHOWN = {"sh", "conf", "json", "text"}
#: Seconds that one command may take, on a machine that may be busy.
PATIENCE = 3 * DEADLINE

# -- reading a document ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after the fence, the number of its first line, its lines."""

    info: tuple[str, ...]
    line: int
    lines: tuple[str, ...]

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the lines that it is expected to print."""

    line: int
    text: str
    printed: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A program that is saved under a name."""

    line: int
    name: str
    text: str


Step = Command | Program


def blocks(document: str) -> list[Block]:
    """Every fenced block of a document."""
    found: list[Block] = []
    info: tuple[str, ...] | None = None
    lines: list[str] = []
    for number, line in enumerate(document.splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif info is None:
            info, lines = tuple(line[3:].split()), []
        else:
            found.append(Block(info, number - len(lines), tuple(lines)))
            info = None
    assert info is None, "a block is not closed"
    return found


def steps(document: str) -> list[Step]:
    """The commands and programs of a document, in order."""
    found: list[Step] = []
    for block in blocks(document):
        if block.language in PROGRAMS:
            name = re.fullmatch(PROGRAMS[block.language], block.lines[0])
            assert name, f"line {block.line}: a program begins with its name, such as `# name.py`"
            found.append(Program(block.line, name[1], block.text))
        elif block.language == "console":
            found += commands(block)
        else:
            expected = ", ".join(["console", *PROGRAMS, *sorted(SHOWN)])
            assert block.language in SHOWN, (
                f"line {block.line}: expected {expected}; found {block.language!r}"
            )
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    assert block.lines[0].startswith("$ "), f"line {block.line}: expected a command"
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


def prose(document: str) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", document, flags=re.MULTILINE | re.DOTALL)


def anchors(document: str) -> list[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def bad_links(path: Path, document: str | None = None) -> list[str]:
    """The links of a document that lead nowhere; links to other hosts are not followed."""
    document = path.read_text(encoding="utf-8") if document is None else document
    bad = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        other = path.parent / file if file else path
        if file and not other.exists():
            bad.append(target)
        elif anchor:
            text = other.read_text(encoding="utf-8") if file else document
            if anchors(text).count(anchor) != 1:
                bad.append(target)
    return bad


def section(document: str, title: str) -> str:
    """The text of one section, with the sections below it."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", document, re.M | re.DOTALL)
    assert found, title
    return found[2]


def rows(document: str) -> list[list[str]]:
    """The cells of all table rows of a document, heads and separators included."""
    lines = (line for line in prose(document).splitlines() if line.startswith("|"))
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# -- comparing ------------------------------------------------------------------------------------

#: What differs from run to run. Of those in SAME, equal text means an equal thing.
VARYING = {
    "owner": r"\(\w+, \d\d:\d\d:\d\d\)",
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
    """Compares printed lines with a document's, and remembers which text meant which."""

    meant: dict[str, str] = field(default_factory=dict)

    def agree(self, said: tuple[str, ...], printed: tuple[str, ...]) -> bool:
        """Whether the lines that were printed are those that the document has."""
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
        meant = dict(self.meant)
        for name, here in pairs:
            if meant.setdefault(name, here) != here:
                return False
        if len(set(meant.values())) != len(meant):
            return False
        self.meant = meant
        return True


def _literal(text: str) -> str:
    """The text itself, `...` in it being the rest of the line."""
    return r"[^\n]*".join(map(re.escape, text.split("...")))


# -- running --------------------------------------------------------------------------------------


class Shell:
    """One bash from the first command to the last, with a folder in the place of /tmp/farm."""

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
        """The lines that a command prints; returns when the agent serves what it changed."""
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
        """Wait until an agent that was started answers, and has checked, served and logged all that
        was changed."""
        socket = self.farm / "pipe"

        def settled() -> bool:
            with client.Client(str(socket), timeout=PATIENCE, restart=0) as one:
                try:
                    one.reload()
                    status = one.status()
                    records = one.history()["records"]
                except client.NoAgent:
                    return not started
            # A reload waits for the log, and for the check of Python, only for a moment.
            log = Path(status["settings"]["log"]["value"])
            text = log.read_text() if log.exists() else ""
            logged = re.findall(rf"^\[.*\] .*\[{status['pid']}\]: ", text, re.MULTILINE)
            held = {directory["held"] for directory in status["directories"]}
            return len(logged) == len(records) and "not-checked" not in held

        wait_for(settled, "an answer of the agent", PATIENCE)

    def running(self) -> list[int]:
        """The processes that the session has started and not ended."""
        return [int(pid) for pid in self._output("jobs -pr").split()]

    def close(self) -> None:
        """End the shell and everything that it has started."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, AssertionError):
            self._output("kill $(jobs -pr) 2>/dev/null; wait")
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            # The session has a process group of its own.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def shell() -> Iterator[Shell]:
    """A shell, ended with all that it started. Its folder has a short path, as a pipe needs."""
    above = Path(tempfile.mkdtemp(prefix="doc-", dir="/tmp"))
    one = Shell(above / "farm")
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(above)


@dataclass(frozen=True)
class Run:
    """What a command of a document printed."""

    command: Command
    printed: tuple[str, ...]


@dataclass(frozen=True)
class Session:
    """All that a document's commands did, and the processes that they left running."""

    document: str
    runs: tuple[Run, ...]
    left: tuple[int, ...]
    #: Commands that were not run because a program is not installed.
    not_run: tuple[Command, ...]


def carry_out(name: str, text: str, before: Sequence[Command] = ()) -> Session:
    """Run the commands of a document and save its programs; `before` prepares the folder."""
    runs: list[Run] = []
    not_run: list[Command] = []
    with shell() as one:
        if before:
            one.run("\n".join(step.text for step in before))
        for step in steps(text):
            if isinstance(step, Program):
                (one.farm / step.name).write_text(step.text.replace(FARM, str(one.farm)))
            elif "socat" in step.text and shutil.which("socat") is None:
                not_run.append(step)
            else:
                runs.append(Run(step, one.run(step.text)))
        return Session(name, tuple(runs), tuple(one.running()), tuple(not_run))


def differing(session: Session) -> list[Run]:
    """The commands that printed something else than the document says."""
    comparison = Comparison()
    return [run for run in session.runs if not comparison.agree(run.command.printed, run.printed)]


def differences(session: Session) -> list[str]:
    """What each command printed that the document does not say."""
    return [
        f"{session.document}:{run.command.line}: $ {run.command.text}\n"
        + "\n".join(["expected:", *run.command.printed, "printed:", *run.printed])
        for run in differing(session)
    ]


def hold(path: Path, session: Session) -> None:
    """Fail where a document shows other output than its commands printed.

    With UPDATE_DOCUMENTS=1 in the environment, first write what they printed into the document.
    """
    found = differences(session)
    if found and os.environ.get("UPDATE_DOCUMENTS") == "1":
        lines = path.read_text(encoding="utf-8").split("\n")
        for run in reversed(differing(session)):
            start = run.command.line + run.command.text.count("\n")
            lines[start : start + len(run.command.printed)] = run.printed
        path.write_text("\n".join(lines), encoding="utf-8")
    assert not found, "\n\n".join(found)


def programs_not_run(text: str) -> list[str]:
    """The programs of a document that none of its commands runs."""
    found = steps(text)
    texts = [step.text for step in found if isinstance(step, Command)]
    return [
        step.name
        for step in found
        if isinstance(step, Program)
        and not any(re.search(rf"\b(python3|perl|gcc) .*{FARM}/{step.name}", t) for t in texts)
    ]
