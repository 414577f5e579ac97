"""The commands as a person runs them: real processes, their output and exit statuses.

Where they need an agent, a stand-in answers on a real socket, with results that are valid for the
pipe: so each test says exactly what the agent answered. The last test asks the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli import asking
from agent.cli.exits import Failed
from cli.stand_in import (
    DIGEST,
    ROOT,
    SOON,
    Run,
    StandIn,
    answered,
    callback,
    health,
    is_one_line,
    off,
    record,
)
from support.agents import wait_for
from support.strangers import User
from support.valid import request_validator

# -- lookup ---------------------------------------------------------------------------------------


def test_lookup_shows_a_line_for_each_callback_and_marks_what_will_not_run(
    agent: StandIn, run: Run
) -> None:
    waits = callback(line=9, trigger="done-job-self && done-job-parent", missing="done-job-parent")
    agent.well("lookup", answered(off(), callback(), partial=[waits]))
    done = run("lookup", "failed-job-self", "--pipe", agent.path)
    assert done.stdout.splitlines() == [
        "logFailuresToDB.py  python  failed-job-self-*                 "
        "/farm/callback/callbacks.conf:6"
        "  (language off: the supervisor will not run it)",
        "mail-status.qcb     qube    done-job-self                     "
        "/farm/callback/callbacks.conf:7",
        "mail-status.qcb     qube    done-job-self && done-job-parent  "
        "/farm/callback/callbacks.conf:9  (partial, missing: done-job-parent)",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert agent.params() == {"event": "failed-job-self"}


def test_lookup_exits_1_where_no_enabled_callback_fires(agent: StandIn, run: Run) -> None:
    asked = ("lookup", "submit-job-self", "--pipe", agent.path)
    agent.well("lookup", answered(partial=[]))
    done = run(*asked)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no callback fires on submit-job-self\n"
    for callbacks, partial in (([off()], []), ([], [callback(missing="x-job-y")])):
        agent.well("lookup", answered(*callbacks, partial=partial))
        assert run(*asked).returncode == 1
        assert run(*asked, "--json").returncode == 1


def test_json_is_the_pipes_result_as_it_is(agent: StandIn, run: Run) -> None:
    result = answered(callback(trigger="done-work-self-\u00e9\u20ac\u2028"), partial=[])
    agent.well("lookup", result)
    for locale in ("C.UTF-8", "C", "POSIX"):
        done = run("lookup", "x-job-self", "--json", "--pipe", agent.path, LC_ALL=locale)
        assert json.loads(done.stdout) == result
        assert done.stdout.count("\n") == 1
        assert (done.returncode, done.stderr) == (0, "")


def test_the_options_of_lookup_and_explain_make_the_question(agent: StandIn, run: Run) -> None:
    agent.well("lookup", answered(callback(), partial=[]))
    agent.well("explain", answered(callback(verdict="fires", reason="it does")))

    def asked(*options: str) -> Any:
        for command in ("lookup", "explain"):
            done = run(command, *options, "--pipe", agent.path)
            assert done.returncode == 0, done
            request_validator().validate(agent.requests[-1])
        assert agent.requests[-2]["params"] == agent.requests[-1]["params"]
        return agent.params()

    job = ("--job", "1234", "--label", "a b", "--parent", "12", "--pgrp", "0")
    all_of_it = {"id": 1234, "label": "a b", "pid": 12, "pgrp": 0}
    event = {"name": "failed", "type": "work", "extra": "1-10", "job": all_of_it}
    assert asked("failed-work-self-1-10", *job) == {"event": event}
    assert asked("failed-job-self", "--pgrp", "5") == {
        "event": {"name": "failed", "type": "job", "job": {"pgrp": 5}}
    }
    owner = [word.replace("--", "--owner-") for word in job]
    assert asked("failed-job-x", *owner) == {"event": "failed-job-x", "owner": all_of_it}
    occurred = ("--occurred", "done-job-7", "--occurred", "done-job-8")
    assert asked(" odd-job-(self) ", *occurred, "--code") == {
        "event": " odd-job-(self) ",
        "occurred": ["done-job-7", "done-job-8"],
        "code": True,
    }
    # Empty counts as not given.
    assert asked("failed-job-self", "--label", "") == {"event": "failed-job-self"}


def test_code_is_shown_beneath_and_cannot_drive_the_terminal(agent: StandIn, run: Run) -> None:
    code = "\timport os\r\n\n\x1b]0;owned\x07print('\u00e9')\n"
    latin = callback("gruss.pl", 8, code_base64="cHJpbnQgIud8Ijs=")
    agent.well("lookup", answered(callback(code=code), latin, partial=[]))
    lines = run("lookup", "x-job-self", "--code", "--pipe", agent.path).stdout.split("\n")
    assert lines[1:4] == ["    \timport os", "", r"    \x1b]0;owned\x07print('" + "\u00e9')"]
    assert lines[4].startswith("gruss.pl")
    assert lines[5:] == [
        r"    (not UTF-8: other bytes are shown as \xNN)",
        r'    print "\xe7|";',
        "",
    ]


def test_what_comes_from_files_cannot_write_lines_of_its_own(agent: StandIn, run: Run) -> None:
    hostile = callback(trigger="done-job-a\nb\x1b[2J", directory="/farm/\r/x")
    agent.well("list", answered(hostile))
    done = run("list", "--pipe", agent.path)
    assert done.stdout.splitlines() == [
        r"mail-status.qcb  qube  done-job-a\nb\x1b[2J  /farm/\r/x/callbacks.conf:7"
    ]


# -- the other questions --------------------------------------------------------------------------


def test_explain_says_why_for_each_callback(agent: StandIn, run: Run) -> None:
    rows = [
        callback(verdict="fires", reason="the event is done"),
        {**off(), "verdict": "no", "reason": "it waits for failed"},
    ]
    agent.well("explain", answered(*rows))
    done = run("explain", "done-job-self", "--pipe", agent.path)
    assert done.stdout.splitlines() == [
        "fires  mail-status.qcb     qube    done-job-self      /farm/callback/callbacks.conf:7"
        "  the event is done",
        "no     logFailuresToDB.py  python  failed-job-self-*  /farm/callback/callbacks.conf:6"
        "  it waits for failed  (language off: the supervisor will not run it)",
    ]
    assert done.returncode == 0
    agent.well("explain", answered())
    agent.well("list", answered())
    done = run("explain", "x-job-self", "--pipe", agent.path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "no callback has the name and type of x-job-self\n"


def test_list_shows_all_that_is_served(agent: StandIn, run: Run) -> None:
    agent.well("list", answered(callback(), off()))
    done = run("list", "--pipe", agent.path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "mail-status.qcb",
        "logFailuresToDB.py",
    ]
    assert (done.returncode, agent.params()) == (0, None)
    agent.well("list", answered(callback(code="mail-status\n")))
    assert "\n    mail-status\n" in run("list", "--code", "--pipe", agent.path).stdout
    assert agent.params() == {"code": True}
    agent.well("list", answered())
    done = run("list", "--pipe", agent.path)
    assert (done.returncode, done.stdout) == (0, "")


def test_status_says_the_state_first_and_last(agent: StandIn, run: Run) -> None:
    agent.well("status", health(clients=1, notes=["user id 99 was refused"]))
    done = run("status", "--pipe", agent.path, TZ="UTC")
    lines = done.stdout.splitlines()
    assert lines == [
        "state: ok",
        "callbacks: 1 served",
        "last change: 2 min 5 s ago, generation 2, sha256:index",
        "lookups: 0.5 per second, 7 in all",
        "agent: version 0.1.0, pid 1234, up 1 h 2 min, 1 client",
        "last reload: 2014-01-20 17:58:36 reloaded, 2 ms",
        "directory: /farm/callback  1 callback  by events",
        "note: user id 99 was refused",
        "state: ok",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    with_settings = run("status", "--settings", "--pipe", agent.path, TZ="UTC").stdout
    assert with_settings.splitlines() == [
        *lines[:7],
        "setting: pipe       /run/x/pipe  (--pipe)",
        "setting: languages  mail,qube  (/etc/qb.conf:12)",
        *lines[7:],
    ]
    held = {"path": "/farm", "callbacks": 2, "held": "fault", "watch": "scan", "digest": "d"}
    # What is found in a directory below it is no reason.
    found: dict[str, Any] = {"severity": "warning", "code": "never-fires", "message": "never"}
    found |= {"path": "/farm/other/callbacks.conf", "line": 1, "column": 1}
    last = {**health()["last_reload"], "diagnostics": [found]}
    agent.well("status", health(state="degraded", directories=[held], last_reload=last))
    done = run("status", "--pipe", agent.path)
    assert done.stdout.splitlines()[:2] == [
        "state: degraded: 1 of 1 directory is held",
        "why: /farm is held: fault",
    ]
    assert done.stdout.endswith("\nstate: degraded: 1 of 1 directory is held\n")
    assert "directory: /farm  2 callbacks  by scan  HELD: fault\n" in done.stdout
    assert done.returncode == 1
    asked = run("status", "--json", "--pipe", agent.path)
    assert (json.loads(asked.stdout)["state"], asked.returncode) == ("degraded", 1)


def test_reload_prints_the_record_and_says_whether_something_is_held(
    agent: StandIn, run: Run
) -> None:
    change = {"change": "added", "path": "/farm/x.py", "trigger": "t", "line": 3, "digest": DIGEST}
    agent.well("reload", record(changes=[change]))
    done = run("reload", "--pipe", agent.path)
    header, *rest = done.stdout.splitlines()
    assert header.startswith("[")
    assert rest
    assert all(line.startswith((" ", "\t")) for line in rest)
    assert "/farm/x.py" in rest[0]
    assert done.returncode == 0
    held = record(held=[{"directory": "/farm", "reason": "fault"}], event="held")
    agent.well("reload", held)
    assert run("reload", "--pipe", agent.path).returncode == 1
    done = run("reload", "--json", "--pipe", agent.path)
    assert (json.loads(done.stdout), done.returncode) == (held, 1)


# -- which agent, and none ------------------------------------------------------------------------

ASKING = [["lookup", "x-job-self"], ["explain", "x-job-self"], ["list"], ["status"], ["reload"]]


@pytest.mark.parametrize("command", ASKING, ids=lambda command: command[0])
def test_no_agent_is_told_in_one_line(command: list[str], run: Run, tmp_path: Path) -> None:
    for options in ([], ["--json"]):
        done = run(*command, *options, "--pipe", str(tmp_path / "none"))
        assert (done.returncode, done.stdout) == (3, "")
        assert is_one_line(done.stderr)
        assert f"{tmp_path}/none: there is no pipe" in done.stderr
        assert "callback-agent serve" in done.stderr


def test_the_pipe_is_the_flags_then_the_variables_then_the_default(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    agent.well("list", answered(callback()))
    wrong = str(tmp_path / "none")
    assert run("list", "--pipe", agent.path, CALLBACK_AGENT_PIPE=wrong).returncode == 0
    assert run("list", "--pipe", "", CALLBACK_AGENT_PIPE=agent.path).returncode == 0
    assert run("list", "--pipe", wrong, CALLBACK_AGENT_PIPE=agent.path).returncode == 3
    done = run("list", CALLBACK_AGENT_PIPE="")
    if os.path.exists("/run/callback-agent/pipe"):
        pytest.skip("an agent of root's has left its pipe on this machine")
    assert done.returncode == 3
    assert "/run/callback-agent/pipe: there is no pipe" in done.stderr
    if os.geteuid() != 0:
        assert f"{tmp_path}/runtime/callback-agent/pipe: there is no pipe" in done.stderr


def test_a_question_that_the_agent_refuses_is_bad_usage(agent: StandIn, run: Run) -> None:
    data = {"pointer": "/elsewhere", "expected": "one of job, work", "column": 8}
    agent.answers["lookup"] = {"code": -32602, "message": "jbo is no type", "data": data}
    done = run("lookup", "failed-jbo-self", "--pipe", agent.path)
    assert (done.returncode, done.stdout) == (2, "")
    expected = "jbo is no type, at /elsewhere; expected one of job, work"
    assert done.stderr == f"callback-agent: {expected}\n"
    agent.answers["lookup"] = {"code": -32603, "message": "out of luck"}
    done = run("lookup", "failed-job-self", "--pipe", agent.path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "callback-agent: out of luck\n")


@pytest.mark.parametrize("nonsense", [{}, {"callbacks": 5}, {"callbacks": [{}]}, "text", None])
@pytest.mark.parametrize("command", ASKING, ids=lambda command: command[0])
def test_an_answer_that_is_not_understood_is_told_in_one_line(
    agent: StandIn, run: Run, command: list[str], nonsense: Any
) -> None:
    agent.answers[command[0]] = nonsense
    done = run(*command, "--pipe", agent.path)
    assert (done.returncode, done.stdout) == (3, "")
    assert is_one_line(done.stderr)


@pytest.mark.parametrize("found", [[], [callback(trigger="done-job-\u6f22")]])
def test_asking_does_not_load_what_only_serving_or_a_screen_needs(
    agent: StandIn, environment: dict[str, str], found: list[Any]
) -> None:
    heavy = {"anyio", "asyncio", "watchfiles", "jsonschema", "msgspec", "uvloop", "agent.settings"}
    heavy |= {"rich", "shutil", "prometheus_client"}
    agent.well("lookup", answered(*found, partial=[]))
    script = (
        "import sys; from agent.cli import main\n"
        f"status = main(['lookup', 'x-job-self', '--pipe', {agent.path!r}])\n"
        f"print(status, sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * SOON,
    )
    assert done.stdout.splitlines()[-1] == f"{0 if found else 1} []", done.stderr


# -- bad usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["what"],
        ["--pipe", "x", "list"],
        ["list", "--no-such-option"],
        ["list", "extra"],
        ["lookup"],
        ["lookup", "a", "b"],
        ["lookup", "x-job-self", "--job", "seven"],
        ["lookup", "x-job-self", "--job", "-1"],
        ["lookup", "x-job-parent", "--job", "1"],
        ["lookup", "x-job", "--job", "1"],
        ["lookup", "x-work-self-", "--job", "1"],
        ["lookup", "globaltime-100", "--owner-job", "1", "--pgrp", "1"],
        ["lookup", b"\xff-job-self"],
        ["lookup", "x-job-self", "--owner-label", b"\xff"],
        ["lookup", "x-job-self", "--occurred", b"\xff"],
        ["explain", "x-job-7", "--label", "x"],
        ["serve", "--log-format", "xml"],
        ["serve", "extra"],
        ["check", b"\xff"],
        ["check", "--qb-conf"],
        ["log", "-n", "-1"],
        ["log", "-n", "x"],
        ["log", "--log", "-"],
        ["log", "--only", "x"],
    ],
    ids=str,
)
def test_bad_usage_exits_2_and_says_why(run: Run, arguments: list[str | bytes]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_no_error(run: Run) -> None:
    for command in ([], *[[c[0]] for c in ASKING], ["serve"], ["check"], ["log"]):
        done = run(*command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage: callback-agent" in done.stdout


# -- output that goes nowhere, and colour ---------------------------------------------------------


def test_who_stops_reading_is_not_complained_about(
    agent: StandIn, environment: dict[str, str]
) -> None:
    agent.well("list", answered(*[callback(line=n) for n in range(1, 5000)]))
    for option in ([], ["--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "agent", "list", "--pipe", agent.path, *option],
            env=environment,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=2 * SOON,
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_told_in_one_line(agent: StandIn, environment: dict[str, str]) -> None:
    agent.well("lookup", answered(callback(), partial=[]))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agent", "lookup", "x-job-self", "--pipe", agent.path],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=2 * SOON,
        )
    # Not 1, which would say that nothing fires.
    assert done.returncode == 5
    assert is_one_line(done.stderr)
    assert "No space left" in done.stderr


def test_a_closed_output_is_told_in_one_line(agent: StandIn, environment: dict[str, str]) -> None:
    agent.well("list", answered(callback()))
    done = subprocess.run(
        ["sh", "-c", '"$0" -m agent list --pipe "$1" >&-', sys.executable, agent.path],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=2 * SOON,
    )
    assert done.returncode == 5
    assert is_one_line(done.stderr)


def on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """What the command prints when its standard output is a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=subprocess.DEVNULL,
    )
    os.close(its)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the terminal's other end is closed.
        while data := os.read(ours, 1 << 16):
            shown += data
    os.close(ours)
    process.wait(SOON)
    return shown.decode()


def test_colour_only_on_a_terminal_and_never_with_no_color(
    agent: StandIn, run: Run, environment: dict[str, str]
) -> None:
    agent.well("lookup", answered(off(), partial=[]))
    command = ["lookup", "x-job-self", "--pipe", agent.path]
    assert "\x1b[" in on_a_terminal(command, environment)
    assert "\x1b[" in on_a_terminal(command, {**environment, "NO_COLOR": ""})
    assert "\x1b" not in on_a_terminal(command, {**environment, "NO_COLOR": "1"})
    assert "\x1b" not in on_a_terminal(command, {**environment, "TERM": "dumb"})
    assert "\x1b" not in on_a_terminal([*command, "--json"], environment)
    assert "\x1b" not in run(*command).stdout


# -- check ----------------------------------------------------------------------------------------


def test_check_prints_what_is_wrong_with_qb_conf_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "callback").mkdir()
    (tmp_path / "callback" / "callbacks.conf").write_text("# nothing\n")
    conf = tmp_path / "qb.conf"
    path_list = f"{tmp_path}/callback,{tmp_path}/callback/."
    conf.write_text(f"supervisor_universal_callback_path = {path_list}\n")
    done = run("check", "--output-format", "concise", "--qb-conf", str(conf))
    column = 39 + path_list.index(",")
    assert done.stdout == (
        f"{conf}:1:{column}: warning: {tmp_path}/callback is listed twice and is read once; remove"
        " one of the two [duplicate-directory]\n"
    )
    assert (done.returncode, done.stderr) == (0, "1 directory: 1 warning\n")
    conf.write_text('supervisor_universal_callback_path = "callback\n')
    done = run("check", "--json", CALLBACK_AGENT_QB_CONF=str(conf))
    found = json.loads(done.stdout)["diagnostics"]
    assert [(f["path"], f["line"], f["severity"]) for f in found] == [(str(conf), 1, "error")]
    assert done.returncode == 1
    # What is named on the command line is read all the same.
    done = run("check", "--qb-conf", str(conf), "callback", str(tmp_path / "callback" / "."))
    assert done.returncode == 1
    assert done.stderr == "1 directory: 1 error\n"


def test_check_of_what_is_well_prints_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "callback").mkdir()
    (tmp_path / "callback" / "callbacks.conf").write_text("mail-status.qcb = done-job-self\n")
    (tmp_path / "callback" / "mail-status.qcb").write_text("mail-status\n")
    (tmp_path / "empty").touch()
    done = run("check", "--qb-conf", "empty", "--callback-path", "callback")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "1 directory: nothing found\n"
    done = run("check", "--qb-conf", "empty", "--json", "callback")
    assert (json.loads(done.stdout), done.returncode) == ({"diagnostics": []}, 0)


# -- the real agent -------------------------------------------------------------------------------


def test_the_commands_ask_a_real_agent(
    run: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "fixtures" / "example", tmp_path / "callback")
    (tmp_path / "qb.conf").write_text('supervisor_language_flags = "qube,perl,mail"\n')
    pipe = {"CALLBACK_AGENT_PIPE": str(tmp_path / "pipe")}
    options = ["--qb-conf", "qb.conf", "--callback-path", "callback", "--log", "reload.log"]
    serving = subprocess.Popen(
        [sys.executable, "-m", "agent", "serve", *options, "--state", "kept"],
        cwd=tmp_path,
        env={**environment, **pipe},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + SOON
        while (done := run("status", **pipe)).returncode == 3:
            assert serving.poll() is None, serving.communicate()
            assert time.monotonic() < deadline, done
        assert (done.returncode, done.stdout.split("\n")[0]) == (0, "state: ok")
        with_settings = run("status", "--settings", **pipe).stdout
        pipe_line = rf"setting: pipe +{re.escape(str(tmp_path))}/pipe  \(CALLBACK_AGENT_PIPE\)\n"
        assert re.search(pipe_line, with_settings)

        def files(event: str, *options: str) -> tuple[list[str], int]:
            done = run("lookup", event, *options, **pipe)
            return [line.split()[0] for line in done.stdout.splitlines()], done.returncode

        assert files("failed-job-self") == (["logFailuresToDB.py", "mail-status.qcb"], 0)
        assert files("complete-work-self-1-10", "--job", "7") == (["checkWork.pl"], 0)
        assert files("submit-job-self") == ([], 1)
        assert run("lookup", "failed-jbo-self", **pipe).returncode == 2
        done = run("lookup", "failed-job-self", "--code", **pipe)
        lines = done.stdout.splitlines()
        assert lines[0].endswith("(language off: the supervisor will not run it)")
        assert lines[-1] == "    mail-status"
        assert run("explain", "done-job-self", **pipe).returncode == 0
        assert len(run("list", **pipe).stdout.splitlines()) == 3
        with open(tmp_path / "callback" / "callbacks.conf", "a") as conf:
            conf.write("nothing\n")
        done = run("reload", **pipe)
        assert done.returncode == 1
        assert "callbacks.conf:10:1: " in done.stdout, done
        assert run("status", **pipe).returncode == 1
        # A reload waits for the log only for a moment.
        wait_for(lambda: "[no-equals]" in run("log", "-n", "1", **pipe).stdout)
        shown = run("log", "-n", "1", **pipe).stdout
        assert shown == run("log", "-n", "1", "--log", "reload.log").stdout
        serving.terminate()
        assert serving.wait(SOON) == 0
        assert run("list", **pipe).returncode == 3
    finally:
        serving.kill()
        serving.communicate()


def test_who_may_not_connect_is_told_so_and_not_to_start_an_agent(agent: StandIn) -> None:
    os.chmod(agent.path, 0)

    def say() -> str:
        try:
            asking.ask(lambda one: one.status(), agent.path)
        except Failed as error:
            return str(error)
        return "it was answered"

    # To root, modes say nothing.
    said = User.of("nobody").does(say) if os.getuid() == 0 else say()
    assert said.startswith(f"no agent: {agent.path}: no permission to connect; your user may not")
    assert "--pipe-group" in said
    assert "start one" not in said
