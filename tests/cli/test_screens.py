"""What the commands show on a real terminal, of 80x24 and of other sizes."""

from __future__ import annotations

import getpass
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.stand_in import DIGEST, Run, StandIn, answered, callback, health, off, record
from support.agents import Agent, running, summary, wait_for, write
from support.terminal import HAS_TMUX, Terminal, terminal

pytestmark = pytest.mark.skipif(not HAS_TMUX, reason="needs tmux")

PROGRAM = [sys.executable, "-m", "agent"]
SIZES = [(80, 24), (200, 24)]

FAR = "/farm/projects/shared/pipeline/universal-callbacks/of-the-show/production/callback"
WIDE = "\u6f22\u5b57-\u6f22\u5b57.py"
ROWS = [
    callback(line=1),
    off(directory=FAR, path=f"{FAR}/logFailuresToDB.py"),
    callback(WIDE, 3, trigger="done-work-self-\u6f22\u5b57* && " * 9 + "done-job-self"),
    callback(f"{'long-name-' * 9}of-a-file.py", 123456, directory=FAR),
    callback(line=5, trigger="done-job-a\nb\x1b[2J"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path: tmux has its socket in it."""
    with tempfile.TemporaryDirectory(prefix="agent-") as folder:
        yield Path(folder).resolve()


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def screen(
    request: pytest.FixtureRequest, place: Path, environment: dict[str, str]
) -> Iterator[Terminal]:
    columns, lines = request.param
    with terminal(place, environment, columns, lines) as made:
        yield made


def test_a_row_is_a_line_with_headings_in_colour(agent: StandIn, screen: Terminal) -> None:
    waits = callback(line=9, missing="done-job-parent && " * 5 + "done-job-7")
    agent.well("list", answered(*ROWS, held=[FAR]))
    agent.well("lookup", answered(*ROWS, partial=[waits], held=[FAR]))
    verdicts: Any = [("fires", "the event satisfies it")] * 4 + [("no", "it does not " * 20)]
    explained = [{**c, "verdict": v, "reason": r} for c, (v, r) in zip(ROWS, verdicts, strict=True)]
    agent.well("explain", answered(*explained, held=[FAR]))

    listed = screen.run([*PROGRAM, "list", "--pipe", agent.path])
    assert listed.lines[0].split() == ["FILE", "LANGUAGE", "TRIGGER", "LINE", "NOTE"]
    names = [line.split()[0] for line in listed.lines[1:6]]
    assert [name[:5] for name in names] == ["mail-", "logFa", WIDE[:5], "long-", "mail-"]
    assert "..." in names[3]
    assert names[3].endswith("-a-file.py")
    assert listed.lines[2].endswith("off, held")
    assert listed.lines[4].endswith(":123456  held")
    assert r"\nb\x1b[2J" in listed.lines[5]
    assert listed.lines[6].startswith("off: the supervisor will not run it")
    assert "held: /farm/" in listed.text
    assert "callback-agent status" in " ".join(listed.lines[6:]).replace("    ", "")
    assert listed.status == 0
    # Bold headings, yellow marks.
    assert listed.styled[0].startswith("\x1b[1m")
    assert "\x1b[33m" in listed.styled[2]
    plain = screen.run([*PROGRAM, "list", "--pipe", agent.path], NO_COLOR="1")
    assert plain.lines == plain.styled == listed.lines

    asked = screen.run([*PROGRAM, "lookup", "done-job-self", "--pipe", agent.path])
    assert asked.lines[0].split()[:4] == ["FILE", "LANGUAGE", "TRIGGER", "LINE"]
    assert [line.split()[0] for line in asked.lines[1:6]] == names
    assert "(partial, missing: done-job-parent &&" in asked.text

    shown = screen.run([*PROGRAM, "explain", "done-job-self", "--pipe", agent.path])
    assert shown.lines[0].startswith("VERDICT  FILE")
    assert sum(line.startswith(("fires ", "no ")) for line in shown.lines) == len(ROWS)
    assert "the event satisfies it" in shown.text
    assert " ".join(shown.text.split()).count("it does not") == 20
    assert "\x1b[32m" in shown.styled[1]


def test_status_is_one_screen_however_much_there_is(
    agent: StandIn, screen: Terminal, run: Run
) -> None:
    paths = [f"{FAR}-{number:02d}" for number in range(100)]
    directories = [
        {"path": path, "callbacks": 3, "held": None, "watch": "events", "digest": "d"}
        for path in paths
    ]
    for number in (7, 42, 99):
        directories[number]["held"] = "error"
    findings = [
        {
            "severity": "error",
            "code": "unknown-type",
            "path": f"{paths[number]}/callbacks.conf",
            "line": 12,
            "column": 8,
            "message": f"the type jbo is unknown: {'it is explained ' * number}",
            "hint": "did you mean job?",
        }
        for number in (7, 42)
    ]
    last = summary(
        record(
            event="held",
            held=[{"directory": paths[n], "reason": "error"} for n in (7, 42, 99)],
            diagnostics=findings,
            causes=[{"path": f"{paths[7]}/callbacks.conf", "change": "modified"}],
        )
    )
    notes = [f"user id {number} was refused: {'it may not ' * 20}" for number in range(30)]
    command = [*PROGRAM, "status", "--pipe", agent.path]
    degraded = health(
        state="degraded",
        directories=directories,
        last_reload=last,
        notes=notes,
        disabled=2,
        warnings=12,
        callbacks=300,
        digest=DIGEST,
    )
    agent.well("status", degraded)
    shown = screen.run(command)
    assert (shown.status, shown.scrolled) == (1, 0)
    assert len(shown.lines) == 23
    verdict = "state: degraded: 3 of 100 directories are held, 2 errors"
    assert shown.lines[0] == shown.lines[-1] == verdict
    assert "\x1b[31m" in shown.styled[0]
    assert sum(line.startswith("why: /farm/") for line in shown.lines) == 3
    assert "error: the type jbo is unknown" in " ".join(shown.text.split())
    assert "callbacks: 300 served, 2 of them off: supervisor_language_flags" in shown.lines
    assert "warnings: 12: see callback-agent check" in shown.lines
    assert any(line.startswith("last change: 2 min 5 s ago, generation 2") for line in shown.lines)
    rows = [line for line in shown.lines if line.startswith("directory: ")]
    assert all(line.endswith("3 callbacks  by events  HELD: error") for line in rows[:3])
    assert [line.split()[1][-2:] for line in rows[:3]] == ["07", "42", "99"]
    left = 100 - (len(rows) - 1)
    assert rows[-1].startswith(f"directory: {left} more: {3 * left} callbacks, {left} by events")
    assert "note: user id 29 was refused" in shown.text

    # Well, and with much room: everything is there, and nothing more.
    agent.well("status", health())
    shown = screen.run(command)
    assert (shown.status, shown.scrolled) == (0, 0)
    assert shown.lines[0] == shown.lines[-1] == "state: ok"
    assert "\x1b[32m" in shown.styled[0]
    assert not [line for line in shown.lines if line.startswith(("why", "note", "setting", "warn"))]
    shown = screen.run([*command, "--settings"])
    assert "setting: pipe       /run/x/pipe  (--pipe)" in shown.lines
    # A terminal that is too small for anything.
    agent.well("status", degraded)
    screen.resize(20, 5)
    assert screen.run(command).lines[-1].startswith("state: degraded")
    # Not a terminal: everything, in full.
    full = run("status", "--pipe", agent.path).stdout.splitlines()
    # The same on one that is too narrow for any text, which wraps it, or that only prints lines.
    screen.resize(14, 24)
    narrow = "".join(screen.run(command).lines).replace(" ", "")
    assert "".join(full).replace(" ", "").endswith(narrow)
    screen.resize(80, 24)
    dumb = screen.run(command, TERM="dumb")
    assert dumb.styled == dumb.lines
    assert dumb.lines[-1] == full[-1]
    assert dumb.scrolled > len(full) - 24
    assert [line.split()[1] for line in full if line.startswith("directory: ")] == paths
    assert sum(line.startswith("note: ") for line in full) == 30


def test_an_event_that_nothing_matches_gets_a_hint(
    agent: StandIn, place: Path, environment: dict[str, str]
) -> None:
    with terminal(place, environment) as screen:
        agent.well("lookup", answered(partial=[], held=["/farm/callback"]))
        shown = screen.run([*PROGRAM, "lookup", "Failed-job-*", "--pipe", agent.path])
        assert shown.status == 1
        assert shown.lines[0] == "no callback fires on Failed-job-*"
        assert "did you mean failed-job-self?" in shown.text
        assert "held: /farm/callback: " in shown.text
        agent.well("explain", answered())
        agent.well("list", answered(callback(trigger="published-job-self || x-job-self")))
        shown = screen.run([*PROGRAM, "explain", "publisht-job-self", "--pipe", agent.path])
        assert "no callback has the name and type of publisht-job-self" in shown.lines
        assert "did you mean" not in shown.text
        shown = screen.run([*PROGRAM, "explain", "publishd-job-self", "--pipe", agent.path])
        assert "did you mean published-job-self?" in shown.text


def test_check_shows_the_line_and_the_correction(place: Path, screen: Terminal) -> None:
    long = "failed-job-self || " * 12 + "faild-job-self || " + "done-job-self || " * 12
    conf = f"a.py = {long}done-job-self\nb.py = done-jbo-self\n"
    folder = write(place / "cb", conf, a_py="0\n", b_py="0\n")
    shown = screen.run([*PROGRAM, "check", str(folder), "--pipe", str(place / "none")])
    assert shown.status == 1
    for number, wrong in ((1, "faild"), (2, "jbo")):
        rows = [n for n, text in enumerate(shown.lines) if text.startswith(f"{number:5} | ")]
        line, carets = shown.lines[rows[-1] : rows[-1] + 2]
        assert carets.strip(" |") == "^" * len(wrong)
        at = carets.index("^")
        assert line[at : at + len(wrong)] == wrong
        # In one row of the terminal, whatever its width.
        assert carets.startswith("      | ")
    written = shown.text.replace("\n", "")
    assert "help: write: b.py = done-job-self" in written
    assert "\x1b[31m" in "".join(shown.styled)
    assert "\x1b[36mhelp" in "".join(shown.styled)
    assert shown.lines[-1].startswith("1 directory: ")
    plain = screen.run(
        [*PROGRAM, "check", str(folder), "--pipe", str(place / "none")], NO_COLOR="1"
    )
    assert plain.styled == plain.lines == shown.lines


def test_what_was_broken_at_night_is_found_by_the_tools_alone(
    place: Path, environment: dict[str, str]
) -> None:
    """`status`, `log`, `diff` and `help` lead to line 12, to who wrote it and to the correction."""
    conf = "".join(f"# {n}\n" for n in range(1, 11)) + "b.py = done-job-self\n"
    cb = write(place / "cb", conf + "a.py = failed-job-self\n", a_py="0\n", b_py="0\n")
    with running(place, cb) as agent, terminal(place, environment) as screen:
        (cb / "callbacks.conf").write_text(conf + "a.py = failed-jbo-self\n")
        assert agent.reload()["held"]
        pipe = ("--pipe", str(agent.pipe))
        shown = screen.run([*PROGRAM, "status", *pipe])
        assert shown.lines[0] == "state: degraded: 1 of 1 directory is held, 1 error"
        why = next(line for line in shown.lines if line.startswith("why: "))
        assert f"{cb}/callbacks.conf:12:" in why
        agent.logs_all()
        shown = screen.run([*PROGRAM, "log", "--since", "1h", "--only", "held", *pipe])
        text = shown.text.replace("\n", "")
        assert f"{cb}/callbacks.conf" in text
        assert getpass.getuser() in text
        assert "-a.py = failed-job-self" in text
        assert "+a.py = failed-jbo-self" in text
        shown = screen.run([*PROGRAM, "diff", *pipe])
        assert shown.status == 1
        assert "HELD: error" in shown.lines[0]
        assert "-a.py = failed-job-self" in shown.lines
        assert "\x1b[31m-a.py" in "\n".join(shown.styled)
        assert "+a.py = failed-jbo-self" in shown.lines
        shown = screen.run([*PROGRAM, "check", str(cb), *pipe])
        assert "help: write: a.py = failed-job-self" in shown.text
        assert "as an edit of what the agent" in shown.text.replace("\n", " ")
        shown = screen.run([*PROGRAM, "help", "unknown-type"], PAGER="cat")
        assert shown.lines[0] == "unknown-type"
        (cb / "callbacks.conf").write_text(conf + "a.py = failed-job-self\n")
        agent.reload()
        assert screen.run([*PROGRAM, "diff", *pipe]).lines[-1] == "1 directory: nothing differs"
        # A warning takes effect, so `status` is the only thing that calls for a look.
        (cb / "callbacks.conf").write_text(conf + "a.py = faild-job-self\n")
        agent.reload()
        shown = screen.run([*PROGRAM, "status", *pipe])
        assert (shown.status, shown.lines[0]) == (0, "state: ok")
        assert "warnings: 1: see callback-agent check" in shown.lines


def test_top_shows_what_happens_until_q(place: Path, environment: dict[str, str]) -> None:
    cb = write(place / "cb", "a.py = failed-job-self\n", a_py="0\n")
    with running(place, cb) as agent, terminal(place, environment) as screen:
        command = [*PROGRAM, "top", "--pipe", str(agent.pipe)]
        screen.start(command)
        lines = screen.shows("q quits")
        assert lines[0] == "state: ok"
        assert lines[-1] == "q quits"
        screen.shows("started")
        (cb / "callbacks.conf").write_text("a.py = failed-jbo-self\n")
        lines = screen.shows("state: degraded: 1 of 1 directory is held")
        screen.shows("unknown-type")
        screen.shows("1 held")
        screen.resize(20, 4)
        screen.shows("state: degraded")
        screen.resize(14, 20)

        def shows_wrapped(*texts: str) -> bool:
            wrapped = "".join(screen.lines()).replace(" ", "")
            return all(text in wrapped for text in texts)

        state = "degraded:1of1directoryisheld,1error;1callback,generation"
        wait_for(lambda: shows_wrapped(state, "lastrecord:held,1held,1error", "qquits"))
        screen.resize(120, 30)
        screen.shows("TIME")
        (cb / "callbacks.conf").write_text("a.py = failed-job-self || done-job-self\n")
        screen.shows("restored")
        screen.shows("1 removed, 1 added")
        agent.stop()
        screen.shows("no agent answers")
        screen.shows("restored")
        agent.start()
        screen.shows("state: ok")
        screen.press("q")
        ended = screen.ended()
        assert (ended.status, ended.text) == (0, "")
        # It leaves the terminal as it was.
        screen.start([*command])
        screen.shows("q quits")
        screen.press("C-c")
        assert screen.ended().status == 0
        # Where only lines can be printed, there is one for each change.
        screen.start([*command], TERM="dumb")
        screen.shows(" ok; 1 callback, generation 1; 0.0 lookups per second; last record: started")
        (cb / "callbacks.conf").write_text("a.py = failed-job-self\n")
        screen.shows("last record: reloaded, 1 removed, 1 added, ")
        screen.press("q")
        ended = screen.ended()
        assert ended.status == 0
        assert ended.styled == ended.lines
        assert ended.text.count("started") == 1
    assert_needs(agent, environment)


def assert_needs(agent: Agent, environment: dict[str, str]) -> None:
    """Without an agent, or a terminal, `top` says what it needs."""
    done = subprocess.run(
        [*PROGRAM, "top", "--pipe", str(agent.pipe)],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr
