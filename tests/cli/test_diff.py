"""The command `diff`: what is on disk, or in a candidate, compared with what is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.stand_in import Run
from support.agents import Agent, write

CONF = "# callbacks\na.py = done-job-self\nb.pl = failed-job-self\nc.qcb = killed-job-self\n"
FILES = {"a_py": "x = 1\n", "b_pl": "1;\n", "c_qcb": "kill\n"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests; each puts back what it edits."""
    folder = tmp_path_factory.mktemp("diff")
    one = write(folder / "one", CONF, **FILES)
    two = write(folder / "two", "d.pl = failed-job-self\n", d_pl="1;\n")
    agent = Agent(folder, one, two)
    agent.start()
    yield agent
    assert agent.stop() == 0


@pytest.fixture
def one(agent: Agent) -> Iterator[Path]:
    """The first directory, as it was again afterwards."""
    directory = agent.directories[0]
    yield directory
    write(directory, CONF, **FILES)
    assert agent.reload()["held"] == []


def as_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_nothing_differs_once_an_edit_is_served(agent: Agent, one: Path, run: Run) -> None:
    pipe = ("--pipe", str(agent.pipe))
    write(one, CONF + "# a comment\n")
    agent.reload()
    done = run("diff", *pipe)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "2 directories: nothing differs\n"
    assert [d["changes"] for d in as_json(run("diff", "--json", *pipe))["directories"]] == [[], []]


def test_a_held_directory_is_compared_as_if_its_disk_were_served(
    agent: Agent, one: Path, run: Run
) -> None:
    conf = CONF.replace("b.pl = failed-job-self\n", "") + "a.py = submit-job-self\nx.py = done\n"
    # First what holds it: otherwise the new code may be served before.
    write(one, "# new\n" + conf)
    agent.reload()
    write(one, "# new\n" + conf, a_py="x = 2\n")
    agent.reload()
    done = run("diff", "--pipe", str(agent.pipe))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"{one}  HELD: error"
    assert lines[1].startswith(f"    {one}/callbacks.conf:6:")
    assert "    lost     b.pl  failed-job-self  (line 3)" in lines
    assert "    gained   a.py  submit-job-self  (line 5)" in lines
    assert "    changed  a.py  done-job-self  (line 3): other code, was line 2" in lines
    at = lines.index(f"--- {one}/callbacks.conf\tserved")
    assert lines[at + 1 : at + 3] == [f"+++ {one}/callbacks.conf\ton disk", "@@ -1,4 +1,6 @@"]
    assert lines[at + 3 : at + 10] == [
        *("+# new", " # callbacks", " a.py = done-job-self", "-b.pl = failed-job-self"),
        *(" c.qcb = killed-job-self", "+a.py = submit-job-self", "+x.py = done"),
    ]
    at = lines.index(f"--- {one}/a.py\tserved")
    assert lines[at + 2 :] == ["@@ -1 +1 @@", "-x = 1", "+x = 2"]
    assert done.stderr.endswith("2 files differ, 1 directory held\n")
    found = as_json(run("diff", "--json", "--pipe", str(agent.pipe)))["directories"]
    assert [d["held"] for d in found] == ["error", None]
    (changed,) = [c for c in found[0]["changes"] if c.get("what") == ["digest", "line"]]
    assert changed["before"]["line"] == 2
    assert found[0]["finding"]["line"] == 6


def test_the_diff_can_be_applied(agent: Agent, one: Path, run: Run, tmp_path: Path) -> None:
    write(one, "".join(f"# {n}\n" for n in range(30)) + CONF + "x.py = done")
    agent.reload()
    copy = tmp_path / "served"
    copy.write_text(CONF)
    done = run("diff", "--json", "--pipe", str(agent.pipe))
    (file,) = as_json(done)["directories"][0]["files"]
    subprocess.run(["patch", "-s", str(copy)], input=file["diff"], text=True, check=True)
    assert copy.read_text() == (one / "callbacks.conf").read_text()


def test_a_candidate_in_the_place_of_a_directory(
    agent: Agent, one: Path, run: Run, tmp_path: Path
) -> None:
    next_ = write(tmp_path / "next", CONF.replace("# callbacks\n", ""), **FILES)
    write(next_, (next_ / "callbacks.conf").read_text().replace("failed", "blocked"), b_pl="2;\n")
    events = tmp_path / "events"
    events.write_text(
        "# which\nfailed-job-self\n\n  done-job-self\nblocked-job-7\nblocked-job-self"
    )
    pipe = ("--pipe", str(agent.pipe))
    command = ("diff", str(next_), "--replaces", str(one), "--events", str(events), *pipe)
    done = run(*command)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"{one} replaced by {next_}"
    assert f"+++ {next_}/callbacks.conf\tcandidate" in lines
    # The line of the others moved: that is one line.
    assert "    changed  only the line of 2 callbacks" in lines
    at = lines.index("event failed-job-self")
    # done-job-self is satisfied by failed-job-self too.
    assert lines[at + 1 :] == [
        f"      {one}/a.py  done-job-self",
        f"    - {one}/b.pl  failed-job-self",
        f"      {agent.directories[1]}/d.pl  failed-job-self",
        "event blocked-job-self",
        f"    + {one}/b.pl  blocked-job-self",
    ]
    assert "2 of 4 events fire differently" in done.stderr
    found = as_json(run(*command, "--json"))
    assert [e["event"] for e in found["events"]] == ["failed-job-self", "blocked-job-self"]
    assert found["events"][1]["old"] == []
    assert [Path(e["path"]).name for e in found["events"][0]["new"]] == ["a.py", "d.pl"]
    # Nothing of it happened.
    assert agent.fires("failed-job-self") == ["a.py", "b.pl", "d.pl"]
    # A candidate that would be held says so, whoever may write there.
    write(next_, "a.py = done-job-self\n", a_py="def broken(:\n")
    next_.chmod(0o702)
    done = run(*command, "--json")
    (found,) = as_json(done)["directories"]
    assert (found["held"], found["finding"]["code"]) == ("error", "does-not-compile")


def test_another_path_of_a_served_directory_is_that_directory(
    agent: Agent, one: Path, run: Run, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(one)
    write(one, CONF + "x.py = done\n")
    agent.reload()
    pipe = ("--pipe", str(agent.pipe))
    expected = run("diff", str(one), *pipe)
    assert expected.stdout.startswith(f"{one}  HELD: error\n")
    for arguments in ([link], [link, "--replaces", one], [one, "--replaces", link]):
        done = run("diff", *map(str, arguments), *pipe)
        assert (done.returncode, done.stdout) == (1, expected.stdout)
    # The other directory may be named so too, and be replaced by this one.
    two = tmp_path / "two"
    two.symlink_to(agent.directories[1])
    done = run("diff", str(link), "--replaces", str(two), *pipe)
    assert done.stdout.startswith(f"{agent.directories[1]} replaced by {link}  HELD: error\n")


def test_what_is_not_known_is_said(agent: Agent, one: Path, run: Run) -> None:
    """Where others may write to the state directory, the text of callbacks.conf is not known; code
    is."""
    write(one, CONF + "x.py = done\n")
    (one / "b.pl").write_bytes(b"\xff\n")
    agent.reload()
    agent.state.chmod(0o777)
    try:
        done = run("diff", str(one), "--pipe", str(agent.pipe))
    finally:
        agent.state.chmod(0o700)
    lines = done.stdout.splitlines()
    assert lines[2].startswith(
        "    note: the text of callbacks.conf as it is served is not known: "
    )
    assert lines[-1] == "+\\xff"
    assert done.stderr.startswith("1 directory: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--replaces", "/x"], "--replaces needs DIR"),
        (["/x"], "with --replaces: "),
        (["/x", "--replaces", "/nowhere"], "/nowhere is not served"),
        (["--events", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_usage(agent: Agent, run: Run, arguments: list[str], says: str) -> None:
    done = run("diff", *arguments, "--pipe", str(agent.pipe))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_an_event_that_cannot_be_one_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "events").write_text("done-job-self\nfailed-jbo-self\n")
    done = run("diff", "--events", "events")
    assert done.returncode == 2
    assert "events:2: " in done.stderr


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("-", "--events: standard input is closed; name a file"),
        ("/dev/zero", "--events: /dev/zero has more than 16 MiB; no more is read"),
        (".", "--events: .: Is a directory"),
    ],
)
def test_events_that_cannot_be_read_are_an_error_of_usage(
    tmp_path: Path, environment: dict[str, str], file: str, says: str
) -> None:
    command = [sys.executable, "-m", "agent", "diff", "--events", file]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"callback-agent: {says}\n"


def test_events_may_come_through_a_pipe(
    agent: Agent, environment: dict[str, str], tmp_path: Path
) -> None:
    """As of a process substitution, or on standard input."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "agent", "diff", "--pipe", str(agent.pipe), "--events"]
    for file in (str(fifo), "-"):
        script = '(echo done-job-self; echo failed-job-7) > "$0" & exec "$@" < "$0"'
        if file != "-":
            script = script.removesuffix(' < "$0"')
        done = subprocess.run(
            ["sh", "-c", script, str(fifo), *command, file],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stderr == "2 directories: 0 of 2 events fire differently\n"
        assert done.returncode == 0


def test_without_an_agent_it_exits_3_in_one_line(run: Run, tmp_path: Path) -> None:
    done = run("diff", "--pipe", str(tmp_path / "none"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_a_candidate_is_named_as_for_check(
    agent: Agent, one: Path, run: Run, tmp_path: Path
) -> None:
    """By its callbacks.conf too; another file, which may be a live one, is not to be replaced."""
    next_ = write(tmp_path / "next", CONF.replace("failed", "blocked"), **FILES)
    replaces = ("--replaces", f"{one}/callbacks.conf", "--pipe", str(agent.pipe))
    by_folder, by_file = (
        run("diff", str(path), *replaces) for path in (next_, next_ / "callbacks.conf")
    )
    assert by_file.stdout == by_folder.stdout
    assert by_file.stdout.startswith(f"{one} replaced by {next_}\n")
    done = run("diff", str(next_ / "a.py"), *replaces)
    said = f"{next_}/a.py is not a directory; name the directory or its callbacks.conf ["
    assert said in done.stdout
