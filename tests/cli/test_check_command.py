"""The command `check`: its formats, and as what it judges a directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.served import Serving
from agent.settings import Given, resolve
from agent.settings.host import Host
from cli.stand_in import Run
from support.agents import ALL_LANGUAGES, Agent, wait_for, write
from support.sites import replace

CONF = "a.py = done-job-self\nb.pl = killed-job-self\n"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent that serves `CONF`."""
    directory = write(tmp_path / "cb", CONF, a_py="x = 1\n", b_pl="1;\n")
    agent = Agent(tmp_path, directory)
    agent.flags += ["--unsafe-permissions", "warn"]
    agent.start()
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.stop()


def codes(done: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    return [(d["severity"], d["code"]) for d in json.loads(done.stdout)["diagnostics"]]


def test_it_does_not_wait_for_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(_: float) -> None:
        raise AssertionError("a command waits for an agent that is not there")

    monkeypatch.setattr("agent.client.time.sleep", sleep)
    given = {"pipe": Given(str(tmp_path / "pipe"), "--pipe")}
    serving = Serving.find(resolve(given, {}, None, Host.here()), given)
    assert (serving.pipe, serving.status) == ("", None)


# Formats -----------------------------------------------------------------------------------------


def test_each_format_shows_the_mistake_in_its_own_way(run: Run, tmp_path: Path) -> None:
    conf = "# nothing\n\tnöte.py = failed-jbo-self # 日本\nb.qcb = done-job-self\n"
    directory = write(tmp_path / "cb", conf, b_qcb="mail-status\n")
    (directory / "nöte.py").write_text("x = 1\n")
    command = ("check", "--qb-conf", "/dev/null", str(directory / "callbacks.conf"))
    done = run(*command)
    assert done.returncode == 1
    first, source, carets, *rest = done.stdout.splitlines()
    assert first.startswith(f"{directory}/callbacks.conf:2:")
    assert first.endswith("[unknown-type]")
    assert source == "    2 |     nöte.py = failed-jbo-self # 日本"
    assert carets.startswith("      | ")
    begin = carets.index("^")
    assert source[begin:].startswith(("jbo", "failed-jbo-self"))
    assert [line[:12] for line in rest] == ["      help: "[:12]]
    assert done.stderr == "1 directory: 1 error\n"

    done = run(*command, "--output-format", "concise")
    (line,) = done.stdout.splitlines()
    hint = rest[0].removeprefix("      help: ")
    assert line == first.replace(" [unknown-type]", f"; {hint} [unknown-type]")

    done = run(*command, "--output-format", "json")
    assert json.loads(done.stdout) == json.loads(run(*command, "--json").stdout)
    (found,) = json.loads(done.stdout)["diagnostics"]
    assert (found["line"], found["code"]) == (2, "unknown-type")

    done = run(*command, "--output-format", "github")
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"::error file={directory}/callbacks.conf,line=2,col={found['column']},")
    assert "title=callback-agent (unknown-type)::" in line
    assert line.endswith(f"%0A{hint}")


def test_findings_about_files_have_no_source_and_warnings_count_if_strict(
    run: Run, tmp_path: Path
) -> None:
    write(tmp_path / "cb", "a.py = done-work-self\n", a_py="0\n")
    (tmp_path / "empty").mkdir()
    done = run("check", "--qb-conf", "/dev/null", "cb")
    assert (done.returncode, "warning" in done.stdout) == (0, True)
    assert run("check", "--strict", "--qb-conf", "/dev/null", "cb").returncode == 1
    done = run("check", "--qb-conf", "/dev/null", "empty")
    first, help_line = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path}/empty/callbacks.conf:1:1: error: ")
    assert help_line.startswith("      help: ")


def test_the_place_in_code_is_shown_in_its_own_encoding(run: Run, tmp_path: Path) -> None:
    conf = "".join(f"{name}.py = done-job-self\n" for name in ("a", "b"))
    directory = write(tmp_path / "cb", conf)
    (directory / "a.py").write_bytes(b"# coding: latin-1\r\ns = '\xe9'; exit()\r\n")
    (directory / "b.py").write_bytes(b"s = '\xe9'\n")
    done = run("check", "--qb-conf", "/dev/null", str(directory))
    lines = done.stdout.splitlines()
    assert "    2 | s = 'é'; exit()" in lines
    assert lines[lines.index("    2 | s = 'é'; exit()") + 1] == "      |          ^"
    assert "Traceback" not in done.stderr


# Judged as serve judges --------------------------------------------------------------------------


def broken_python(directory: Path) -> None:
    with (directory / "a.py").open("a") as file:
        file.write("def broken(:\n")


def removed_file(directory: Path) -> None:
    (directory / "b.pl").unlink()


def emptied(directory: Path) -> None:
    (directory / "callbacks.conf").write_text("")


def no_conf(directory: Path) -> None:
    (directory / "callbacks.conf").unlink()


def bad_lines(directory: Path) -> None:
    write(directory, CONF + "nofile.py = failed-jbo-self\nc.py = done-job-self\n")


EDITS: dict[Callable[[Path], None], list[tuple[str, str]]] = {
    broken_python: [("error", "does-not-compile")],
    removed_file: [("error", "removed")],
    emptied: [("warning", "empty-conf")],
    no_conf: [("error", "no-conf")],
}


@pytest.mark.parametrize("edit", [*EDITS, bad_lines], ids=lambda edit: str(edit.__name__))
def test_a_served_directory_gets_the_findings_that_serve_gives(
    agent: Agent, run: Run, edit: Callable[[Path], None]
) -> None:
    """Whether the agent runs, or only what it stored is there."""
    (directory,) = agent.directories
    edit(directory)
    served = agent.reload()["diagnostics"]
    where = ("--pipe", str(agent.pipe), "--state", str(agent.state))
    command = ("check", "--json", "--qb-conf", str(agent.qb_conf), str(directory), *where)

    def same(expected: str) -> None:
        done = run(*command, "--unsafe-permissions", "warn")
        found = json.loads(done.stdout)["diagnostics"]
        keys = ("severity", "code", "path", "line", "column", "message")
        assert sorted([d[k] for k in keys] for d in found) == sorted(
            [[d[k] for k in keys] for d in served], key=str
        )
        errors = any(d["severity"] == "error" for d in served)
        assert done.returncode == (1 if errors else 0)
        assert expected in done.stderr

    if edit in EDITS:
        assert [(d["severity"], d["code"]) for d in served] == EDITS[edit]
    same(f"judged as an edit of what the agent at {agent.pipe} serves")
    agent.stop()
    same(f"judged as an edit of what {agent.state} has stored of it")


def test_where_the_state_cannot_be_read_the_agent_is_asked_and_it_is_said(
    agent: Agent, run: Run
) -> None:
    (directory,) = agent.directories
    broken_python(directory)
    removed_file(directory)
    agent.reload()
    command = ("check", "--json", "--qb-conf", str(agent.qb_conf), str(directory))
    asked = (*command, "--pipe", str(agent.pipe), "--unsafe-permissions", "warn")
    both = [("error", "does-not-compile"), ("error", "removed")]
    assert codes(run(*asked)) == both
    # As new: nothing was accepted, so nothing was lost.
    done = run(*asked, "--first-reading")
    assert codes(done) == [("warning", "does-not-compile"), ("error", "missing-file")]
    assert done.stderr == ""
    agent.state.rename(agent.state.with_name("elsewhere"))
    done = run(*asked)
    # The agent does not say that b.pl was served before.
    assert codes(done) == [("error", "does-not-compile"), ("error", "missing-file")]
    first, note = done.stderr.splitlines()
    how = f"judged as an edit of what the agent at {agent.pipe} serves, as it answers"
    assert first.endswith(how)
    assert note.startswith("note: what the agent stored cannot be read (")
    assert "has nothing of it" in note


def test_where_nothing_names_directories_those_of_the_agent_are_checked(
    agent: Agent, run: Run
) -> None:
    (directory,) = agent.directories
    removed_file(directory)
    # Otherwise the state may be of another moment than the answer of the agent.
    agent.reload()
    command = ("check", "--json", "--pipe", str(agent.pipe), "--qb-conf", "/dev/null")
    done = run(*command)
    assert ("error", "removed") in codes(done)
    note = f"note: no setting names directories, so those of the agent at {agent.pipe} are checked"
    assert done.stderr.splitlines()[-1] == note
    assert ("error", "missing-file") in codes(run(*command, "--first-reading"))
    # What a setting names is checked; that the agent serves others is said.
    other = write(agent.folder / "other", CONF, a_py="1\n", b_pl="1\n")
    done = run(*command, CALLBACK_AGENT_PATH=str(other))
    assert ("error", "removed") not in codes(done)
    assert "note: CALLBACK_AGENT_PATH names other directories than the agent at" in done.stderr
    assert done.stderr.endswith(f"to check those: callback-agent check {directory}\n")
    for options in (["--callback-path", str(other)], [str(other)]):
        assert "note: " not in run(*command, *options).stderr
    assert "note: " not in run(*command, CALLBACK_AGENT_PATH=str(directory)).stderr


def test_a_path_that_is_no_callback_directory_was_mistyped(run: Run, tmp_path: Path) -> None:
    directory = write(tmp_path / "farm" / "callback", CONF, a_py="1\n", b_pl="1\n")
    for path, hint in {
        directory / "a.py": "name the directory or its callbacks.conf",
        tmp_path / "farm": f"did you mean {directory}? There is a callbacks.conf",
        tmp_path / "farm" / "calback": f"did you mean {directory}?",
        tmp_path / "nothing": "correct the path",
    }.items():
        done = run("check", "--qb-conf", "/dev/null", str(path))
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, f"      help: {hint}")
    said = "callback-agent: PATH: \\xff is not UTF-8; expected UTF-8: if it is a path, rename it\n"
    assert run("check", b"\xff").stderr == said


def test_a_candidate_is_judged_as_new_beside_one_that_is_served(agent: Agent, run: Run) -> None:
    (directory,) = agent.directories
    other = write(agent.folder / "other", CONF, a_py="def broken(:\n", b_pl="1\n")
    broken_python(directory)
    pipe = {"CALLBACK_AGENT_PIPE": str(agent.pipe)}
    options = ("--qb-conf", str(agent.qb_conf), "--output-format", "concise")
    done = run("check", *options, str(directory), str(other), **pipe)
    lines = done.stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["error", "warning"]
    tally, *judged = done.stderr.splitlines()
    assert tally == "2 directories: 1 error, 1 warning"
    assert judged == [
        f"judged as an edit of what the agent at {agent.pipe} serves: {directory}",
        f"judged as new: {other}",
    ]


def test_permissions_are_judged_as_the_agent_judges_them(agent: Agent, run: Run) -> None:
    (directory,) = agent.directories
    (directory / "b.pl").chmod(0o622)
    pipe = ("--pipe", str(agent.pipe))
    command = ("check", "--json", str(directory), "--qb-conf", str(agent.qb_conf))
    # Of the agent, whatever this user's default is; a flag counts more.
    assert codes(run(*command, *pipe)) == [("warning", "unsafe")]
    assert codes(run(*command, *pipe, "--unsafe-permissions", "refuse")) == [("error", "unsafe")]


@pytest.mark.parametrize("link_is_served", [True, False])
def test_another_path_of_a_served_directory_is_judged_as_an_edit_of_it(
    tmp_path: Path, run: Run, link_is_served: bool
) -> None:
    """Whether the agent runs, or only what it stored is there."""
    real, folder = tmp_path / "real", tmp_path / "open"
    write(real, CONF, a_py="x = 1\n", b_pl="1;\n")
    folder.mkdir()
    link = folder / "link"
    link.symlink_to(real)
    served, other = (link, real) if link_is_served else (real, link)
    agent = Agent(tmp_path, served)
    agent.flags += ["--unsafe-permissions", "warn"]
    agent.start()
    try:
        broken_python(real)
        if not link_is_served:
            # The agent does not come this way.
            folder.chmod(0o777)
        assert len(agent.reload()["held"]) == 1
        command = [
            *("check", "--qb-conf", str(agent.qb_conf), "--pipe", str(agent.pipe)),
            *("--state", str(agent.state), "--unsafe-permissions", "warn"),
        ]
        expected = run(*command, str(served))
        assert expected.returncode == 1
        first, source, *_ = expected.stdout.splitlines()
        assert first.startswith(f"{served}/a.py:2:")
        assert source == "    2 | def broken(:"
        how = f"1 directory: 1 error; judged as an edit of what the agent at {agent.pipe} serves"
        assert expected.stderr == f"{how}\n"
        # Both at once are one directory.
        for paths in ([f"{other}/callbacks.conf"], [str(other), str(served)]):
            done = run(*command, *paths)
            assert done.returncode == 1
            assert done.stdout == expected.stdout.replace(str(served), str(other))
            assert done.stderr == f"{how} (as {served})\n"
        agent.stop()
        done = run(*command, str(other))
        assert done.stdout == expected.stdout.replace(str(served), str(other))
        how = f"1 directory: 1 error; judged as an edit of what {agent.state} has stored of it"
        assert done.stderr == f"{how}; no agent answers (as {served})\n"
        settings = next(agent.state.glob("*/settings*"))
        settings.write_bytes(b"damaged")
        done = run(*command, str(other))
        assert "judged as new, because what is served cannot be read (" in done.stderr
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.stop()


def test_a_served_directory_that_does_not_answer_stops_no_check_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(os.path, "samefile", lambda *_: answers.wait())
    status = {"directories": [{"path": "/down"}], "settings": {}}
    serving = Serving(resolve({}, {}, None, Host.here()), {}, "/pipe", status)
    try:
        subject, how = serving.subject("/other")
    finally:
        answers.set()
    assert (subject.path, subject.accepted) == ("/other", None)
    assert how.startswith("as new, because what is served cannot be read (a directory that is se")


# Watching ----------------------------------------------------------------------------------------


class Watching:
    """A `check --watch` that runs."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.out, self.errors = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "check", "--watch", *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
            )

    def rounds(self) -> list[str]:
        """The last line of each round, without its time."""
        return [line[11:] for line in self.errors.read_text().splitlines()]

    def reports(self, *last: str) -> None:
        wait_for(lambda: self.rounds()[-len(last) :] == [*last], f"{last}")

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def watch(tmp_path: Path, environment: dict[str, str]) -> Iterator[Callable[..., Watching]]:
    started: list[Watching] = []

    def start(*arguments: str) -> Watching:
        started.append(Watching(tmp_path, environment, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_watch_checks_again_at_each_change_until_sigint(
    watch: Callable[..., Watching], tmp_path: Path
) -> None:
    directory = write(tmp_path / "cb", "a.py = done-job-self\n", a_py="x = 1\n")
    qb_conf = tmp_path / "qb.conf"
    qb_conf.write_text(ALL_LANGUAGES)
    watching = watch("--qb-conf", str(qb_conf), "--output-format", "concise", str(directory))
    well = "1 directory: nothing found"
    watching.reports(well)
    # At once: a file that is open for long is another finding.
    replace(directory / "callbacks.conf", "a.py = done-jbo-self\n")
    watching.reports(well, "1 directory: 1 error")
    assert "[unknown-type]" in watching.out.read_text()
    # A file of another name, and then the directory as a whole.
    write(directory, "a.py = done-job-self\n")
    watching.reports(well)
    directory.rename(tmp_path / "away")
    watching.reports("1 directory: 1 error")
    (tmp_path / "away").rename(directory)
    watching.reports(well)
    qb_conf.write_text("supervisor_language_flags = qube\n")
    watching.reports("1 directory: 1 warning")
    write(directory, "# one\n# two\n")
    watching.reports(well)
    # Without a change nothing is reported.
    assert len(watching.rounds()) < 20
    assert watching.end() == 0


def test_watch_judges_each_round_by_what_is_served_then(
    agent: Agent, watch: Callable[..., Watching]
) -> None:
    (directory,) = agent.directories
    watching = watch("--json", "--pipe", str(agent.pipe), "--qb-conf", str(agent.qb_conf), "cb")

    def last() -> list[tuple[str, str]]:
        lines = watching.out.read_text().splitlines()
        found: list[dict[str, Any]] = json.loads(lines[-1])["diagnostics"] if lines else []
        return [(d["severity"], d["code"]) for d in found]

    wait_for(lambda: watching.out.read_text() == '{"diagnostics": []}\n', "the first round")
    write(directory, CONF + "c.py = done-job-self\n", c_py="def broken(:\n")
    wait_for(lambda: last() == [("warning", "does-not-compile")], "a new file that is broken")
    (directory / "c.py").write_text("x = 2\n")
    wait_for(lambda: last() == [], "the corrected file")
    wait_for(lambda: len(agent.served()) == 3 and "x = 2" in str(agent.served()), "it is served")
    (directory / "c.py").write_text("def broken(:\n")
    wait_for(lambda: last() == [("error", "does-not-compile")], "it was served before")
    assert watching.end() == 1
