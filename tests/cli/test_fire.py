"""`fire`: what would run on an event, and its run without a farm."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.stand_in import SOON, Run, StandIn, answered, callback, is_one_line, off
from support.agents import wait_for

PRINTS = "print(qb.jobid(), [j['name'] for j in qb.jobinfo('-id', 1234)])\nqb.retrywork('1234:7')\n"


def served(agent: StandIn, *callbacks: dict[str, Any]) -> None:
    agent.well("lookup", answered(*callbacks, partial=[]))


def test_it_shows_what_would_run_and_with_what(agent: StandIn, run: Run) -> None:
    served(
        agent,
        callback("a.py", code=PRINTS),
        callback("b.qcb", code="mail-status\n"),
        off(code="x"),
    )
    done = run(
        *("fire", "failed-job-self", "--pipe", agent.path),
        *("--interpreter", f"/farm/callback/a.py={sys.executable} -B"),
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["a.py", "b.qcb", "logFailuresToDB.py"]
    assert f"with {sys.executable} -B" in lines[0]
    assert "by the farm itself" in lines[1]
    assert "does not run" in lines[2]
    assert "language off" in lines[2]
    assert agent.params() == {"event": "failed-job-self", "code": True}
    shown = run("fire", "failed-job-self", "--pipe", agent.path, "--code").stdout
    assert "    qb.retrywork('1234:7')" in shown


def test_it_says_what_would_not_run_and_why(agent: StandIn, run: Run) -> None:
    """The same that --run says."""
    base64 = {k: v for k, v in callback("c.qcb").items() if k != "code"}
    served(
        agent,
        callback("a.qcb", code="mial-status\n"),
        callback("b.qcb", code="retry-work-self"),
        {**base64, "code_base64": "/w=="},
        callback("d.pl", code="exit"),
        callback("e.py", code="pass"),
    )
    command = ["fire", "failed-job-self", "--pipe", agent.path]
    command += ["--interpreter", "perl=/no/such/perl -w"]
    reasons = [
        "'mial-status' is not one of Qube's code strings",
        "retry-work-self needs an event of a work item of the callback's own job",
        "'\\\\xff' is not one of Qube's code strings",
        "the interpreter /no/such/perl does not exist or cannot be run",
    ]
    done = run(*command)
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, 5)
    for line, why in zip(lines, reasons, strict=False):
        assert line.endswith(f"  does not run: {why}")
    assert f"with {sys.executable}" in lines[4]
    ran = run(*command, "--run")
    assert ran.returncode == 1
    said = [line.strip() for line in ran.stdout.splitlines()]
    assert [line for line in said if line.startswith("not-run")] == [
        f"not-run: {w}" for w in reasons
    ]
    # What needs a work item runs where the event is about one.
    done = run("fire", "failed-work-self-7", "--pipe", agent.path)
    assert "by the farm itself" in done.stdout.splitlines()[1]


def test_run_runs_it_and_says_what_the_farm_is_asked(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text('[{"id": 1234, "name": "shot \\u2192 7"}]')
    served(
        agent,
        callback("a.py", code=PRINTS),
        callback("b.qcb", code="fail-work-self"),
        off(code="1/0"),
    )
    command = ["fire", "failed-work-self-7", "--run", "--jobs", str(jobs), "--pipe", agent.path]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[3:]
    assert [line for line in lines if "succeeded after" not in line] == [
        "/farm/callback/a.py: done-job-self",
        "    asks the farm: retry job 1234 work 7",
        "    | 1234 ['shot \u2192 7']",
        "/farm/callback/b.qcb: done-job-self",
        "    asks the farm: fail job 1234 work 7",
        "/farm/callback/logFailuresToDB.py: failed-job-self-*",
        "    not-enabled: supervisor_language_flags forbids it",
    ]
    answer = json.loads(run(*command, "--json").stdout)
    assert [one["outcome"] for one in answer["results"]] == [
        *("succeeded", "succeeded", "not-enabled")
    ]
    assert answer["asked"] == ["retry job 1234 work 7", "fail job 1234 work 7"]
    assert "code" not in answer["callbacks"][0]


def test_it_says_if_the_own_job_is_not_in_the_file(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs.json"
    jobs.write_text('[{"id": 7}, {"id": 8}]')
    served(agent, callback("b.qcb", code="mail-status"))
    command = ["fire", "failed-job-self", "--jobs", str(jobs), "--pipe", agent.path]
    done = run(*command, "--run", "--owner-job", "99")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert f"job 99 is not in {jobs}" in done.stderr
    assert run(*command, "--run", "--owner-job", "8").stderr == ""
    assert "--jobs is used with --run only" in run(*command, "--owner-job", "8").stderr


def test_one_that_fails_gives_status_1(agent: StandIn, run: Run) -> None:
    code = "print('\\x1b[31m' + 'x' * 5000)\n1 / 0"
    served(agent, callback("a.py", code=code), callback("b.qcb", code="nonsense"))
    done = run("fire", "failed-job-self", "--run", "--pipe", agent.path)
    assert done.returncode == 1
    assert "bytes before this are not shown" in done.stdout
    assert "not-run: 'nonsense' is not one of Qube's code strings" in done.stdout
    assert "\x1b" not in done.stdout
    served(agent, callback("a.py", code="import time\ntime.sleep(1000)"))
    done = run("fire", "failed-job-self", "--run", "--time-limit", "0.4", "--pipe", agent.path)
    assert done.returncode == 1
    assert re.search(r"timed-out after \d+\.", done.stdout)


def test_the_job_is_that_of_the_options(agent: StandIn, run: Run) -> None:
    served(agent, callback("a.py", code="print(qb.jobid(), qb.jobinfo())"))
    wanted = {
        (): "1 [{'id': 1}]",
        ("--job", "7", "--label", "l"): "7 [{'id': 7, 'label': 'l'}]",
        ("--owner-job", "9", "--owner-pgrp", "8"): "9 [{'id': 9, 'pgrp': 8}]",
    }
    for options, said in wanted.items():
        done = run("fire", "failed-job-self", "--run", "--pipe", agent.path, *options)
        assert f"    | {said}\n" in done.stdout


def test_nothing_to_run_is_not_a_failure(agent: StandIn, run: Run) -> None:
    served(agent)
    done = run("fire", "faild-job-self", "--run", "--pipe", agent.path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("nothing runs on faild-job-self\nhint: did you mean")


def test_what_is_wrong_with_the_command_line_is_said(
    agent: StandIn, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "jobs.json"
    served(agent)
    for text in ("{", "{}", '[{"name": 1}]', '[{"id": "7"}]', '[{"id": true}]', "[" * 100_000):
        file.write_text(text)
        done = run("fire", "failed-job-self", "--jobs", str(file), "--pipe", agent.path)
        assert done.returncode == 2
        assert is_one_line(done.stderr)
        assert f"--jobs: {file}" in done.stderr
    done = run("fire", "failed-job-self", "--jobs", "/dev/zero", "--pipe", agent.path)
    assert (done.returncode, is_one_line(done.stderr)) == (2, True)
    assert "--jobs: /dev/zero has more than 16 MiB" in done.stderr
    for given in ("python2", "ruby=/bin/ruby", "python=", "python=''", "a.py=python", "python='"):
        done = run("fire", "failed-job-self", "--interpreter", given, "--pipe", agent.path)
        assert done.returncode == 2
        assert "expected python=COMMAND" in done.stderr
    for given in ("python=bin/python3", "perl='./my perl' -w", "/farm/a.py=../python3"):
        done = run("fire", "failed-job-self", "--interpreter", given, "--pipe", agent.path)
        assert (done.returncode, is_one_line(done.stderr)) == (2, True)
        assert "expected the program by absolute path or by name" in done.stderr
    for given in ("inf", "nan", "0", "-1", "1e300", "1000001"):
        done = run("fire", "x-job-self", "--run", "--time-limit", given, "--pipe", agent.path)
        assert (done.returncode, is_one_line(done.stderr)) == (2, True)
        assert "--time-limit" in done.stderr
    assert run("fire", "failed-job-self", "--pipe", str(tmp_path / "none")).returncode == 3
    agent.answers["lookup"] = {"code": -32602, "message": "no", "data": {"pointer": "/params"}}
    assert run("fire", "failed-job", "--pipe", agent.path).returncode == 2
    agent.answers["lookup"] = {"strange": True}
    assert run("fire", "failed-job-self", "--pipe", agent.path).returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_that_ends_it_ends_the_callback_too(
    agent: StandIn, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    code = f"import os, time\nopen({str(begun)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n"
    served(agent, callback("a.py", code=code))
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "fire", "x-job-self", "--run", "--pipe", agent.path],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: begun.exists() and begun.read_text(), "the callback")
        callback_id = int(begun.read_text())
        process.send_signal(number)
        _, said = process.communicate(timeout=SOON)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in said
    wait_for(lambda: not Path(f"/proc/{callback_id}/cmdline").exists(), "the callback's end")
