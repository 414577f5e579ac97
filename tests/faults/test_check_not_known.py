"""Row 22: a check that could not be made says nothing of the source. It is reported and retried."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.reload import check_helper
from agent.timing import CheckLimits
from faults.helpers import all_codes, findings, helpers, kill, state
from faults.steps import held, linux, stopped
from support.agents import ALL_LANGUAGES, Agent, wait_for, write
from support.sites import replace
from support.targets import Checking

ONE = "a.py = done-job-self\n"


def check(directory: Path, program: str) -> list[tuple[str, str]]:
    """Severity and code of the findings of the command `check`, with this executed before."""
    qb_conf = directory.with_name("qb.conf")
    qb_conf.write_text(ALL_LANGUAGES)
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{program}\nfrom agent.cli import main\nmain()"),
            *("check", str(directory), "--json", "--unsafe-permissions", "ignore"),
            *("--qb-conf", str(qb_conf)),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return [(d["severity"], d["code"]) for d in json.loads(done.stdout)["diagnostics"]]


def interrupted(agent: Agent, flag: Path, how: str, limits: CheckLimits) -> Agent:
    """An agent with these limits, whose helpers do this in the middle of each check while there is
    this file."""
    module = "\n".join(
        [
            "import os, signal, sys",
            "w = sys.modules['agent.reload.check_program']",
            "real, main = w.examine, w.main",
            "def examine(source):",
            f"    if os.path.exists({str(flag)!r}):",
            f"        {how}",
            "    return real(source)",
            "w.examine = examine",
        ]
    )
    program = "\n".join(
        [
            "from agent.cli import main",
            "from agent.reload import check_helper",
            "from agent.timing import CheckLimits, Timing",
            f"check_helper._MODULES.append(('interrupted', {module!r}))",
            f"main(timing=Timing(checks={limits!r}))",
        ]
    )
    agent.program = ["-c", program]
    return agent


@linux
def test_a_helper_that_is_killed_in_the_middle(tmp_path: Path, directory: Path) -> None:
    """Memory is short: it is killed, again and again. Then there is memory."""
    write(directory, ONE, a_py="1\n")
    short = tmp_path / "short"
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    agent = interrupted(Agent(tmp_path, directory), short, killed, CheckLimits(max_pause=0.1))
    agent.start()
    try:
        short.touch()
        replace(directory / "a.py", "2\n")
        wait_for(lambda: findings(agent) == {"not-checked": "warning"}, "the finding")
        assert agent.status()["state"] == "degraded"
        assert agent.served()[0][2] == "1\n"
        # It does not hang, and says that the edit is held.
        assert agent.reload()["held"] == [{"directory": str(directory), "reason": "not-checked"}]
        short.unlink()
        wait_for(lambda: agent.served()[0][2] == "2\n", "the edit")
        wait_for(lambda: agent.history()[-1]["event"] == "restored", "the record")
        assert agent.status()["state"] == "ok"
        assert all_codes(agent) == {"not-checked"}
        assert [c["path"] for c in agent.history()[-1]["causes"]] == [str(directory / "a.py")]
    finally:
        agent.stop()


@linux
@pytest.mark.parametrize("all_of_them", [True, False], ids=["all processes", "the helper"])
def test_processes_are_paused(tmp_path: Path, directory: Path, all_of_them: bool) -> None:
    """For longer than the agent waits for a sign of life of the helper."""
    write(directory, ONE, a_py="1\n")
    pause = tmp_path / "pause"
    paused = f"os.unlink({str(pause)!r}); os.kill(os.getpid(), signal.SIGSTOP)"
    agent = interrupted(Agent(tmp_path, directory), pause, paused, CheckLimits(max_silence=3))
    agent.start()
    try:
        pause.touch()
        replace(directory / "a.py", "2\n")
        pid = wait_for(lambda: next((p for p in helpers(agent) if state(p) == "T"), 0), "its pause")
        if all_of_them:
            with stopped(agent):
                time.sleep(3.2)  # The pause itself.
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: agent.served()[0][2] == "2\n", "the edit")
        wait_for(lambda: agent.status()["state"] == "ok")
        assert all_codes(agent) <= {"not-checked"}
        if not all_of_them:
            # It is not waited for, and does not stay.
            wait_for(lambda: pid not in helpers(agent))
    finally:
        agent.stop()


FAILURES: dict[str, Exception] = {
    "no process": OSError(11, "Resource temporarily unavailable"),
    "no memory": OSError(12, "Cannot allocate memory"),
    "no thread": RuntimeError("can't start new thread"),
    "no interpreter": FileNotFoundError(2, "No such file or directory"),
    "no descriptor": OSError(24, "Too many open files"),
}


def test_no_helper_can_be_started(tmp_path: Path, directory: Path) -> None:
    """Also at a start: what is there is served, with a warning, and checked later."""
    write(directory, ONE + "b.py = failed-job-self\n", a_py="1\n", b_py="1\n")
    #: While this file exists, no helper starts: the error that it holds is raised.
    error = tmp_path / "error"
    program = "\n".join(
        [
            "import pathlib",
            "from agent.cli import main",
            "from agent.reload import check_helper",
            "from agent.timing import CheckLimits, Timing",
            "start = check_helper._start",
            f"error = pathlib.Path({str(error)!r})",
            "def fails():",
            "    if error.exists(): raise eval(error.read_text())",
            "    return start()",
            "check_helper._start = fails",
            "main(timing=Timing(checks=CheckLimits(max_pause=0.1)))",
        ]
    )
    error.write_text(repr(FAILURES["no process"]))
    agent = Agent(tmp_path, directory)
    agent.program = ["-c", program]
    agent.start()
    try:
        wait_for(lambda: findings(agent) == {"not-checked": "warning"})
        assert (agent.status()["state"], len(agent.served())) == ("ok", 2)
        before = "1\n"
        for number, failure in enumerate(("no process", "no thread"), 2):
            replace(error, repr(FAILURES[failure]))
            for pid in helpers(agent):
                kill(pid)
            replace(directory / "a.py", f"{number}\n")
            record = agent.reload()
            assert record["held"] == [{"directory": str(directory), "reason": "not-checked"}]
            # At first the check may only take long.
            wait_for(lambda: "could be started" in why(agent, "a.py"))
            assert [code for _, _, code in agent.served()] == [before, "1\n"]
            error.unlink()
            before = f"{number}\n"
            wait_for(lambda now=before: agent.served()[0][2] == now)  # type: ignore[misc]
            wait_for(lambda: not held(agent))
        # A removal waits for nothing.
        replace(error, repr(FAILURES["no memory"]))
        for pid in helpers(agent):
            kill(pid)
        replace(directory / "a.py", "x = (\n")
        (directory / "b.py").unlink()
        wait_for(lambda: [code for _, _, code in agent.served()] == [before])
        error.unlink()
        wait_for(lambda: held(agent) == {str(directory): "error"})
    finally:
        agent.stop()


def why(agent: Agent, name: str) -> str:
    """What the last record says of a file."""
    found = agent.history()[-1]["diagnostics"]
    return next((d["message"] for d in found if d["path"].endswith(name)), "")


@pytest.mark.parametrize("failure", FAILURES)
def test_why_no_helper_can_be_started_is_reported(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise FAILURES[failure]

    monkeypatch.setattr(check_helper, "_start", fails)
    checking = Checking()
    assert checking.verdict(b"x = (\n") is None
    trouble = checking.trouble(b"x = (\n")
    assert trouble is not None
    assert "could be started" in trouble
    assert trouble.rpartition(": ")[2] in str(FAILURES[failure])
    monkeypatch.undo()
    wait_for(lambda: checking.verdict(b"x = (\n"), "a verdict as soon as one can be started")


def test_check_says_that_it_could_not_check(directory: Path) -> None:
    write(directory, ONE, a_py="x = (\n")
    fails = "from agent.reload import check_helper\n"
    fails += f"def fails():\n    raise {FAILURES['no process']!r}\ncheck_helper._start = fails"
    assert check(directory, fails) == [("warning", "not-checked")]
    assert check(directory, "") == [("warning", "does-not-compile")]


#: What goes wrong in a helper, as a module that is loaded after its program.
WRONG = {
    "raises": "def examine(source): raise ZeroDivisionError",
    "exits": "def examine(source): raise SystemExit",
    "crashes": "import os\ndef examine(source): os.abort()",
    "is killed": "import os\ndef examine(source): os.kill(os.getpid(), 9)",
    "ends at once": "import os\nos._exit(0)",
    "writes rubbish": "import os\ndef examine(source): os.write(1, b'rubbish')",
    "sends no report": "def examine(source): return {'error': None}",
    "sends half a report": "import os\ndef examine(source): os.write(1, b'R\\0\\0'); os._exit(0)",
    "says nothing": "import time\ndef examine(source): time.sleep(1000)",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_helper_that_goes_wrong(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = f"import sys\n{WRONG[what]}\nw = sys.modules['agent.reload.check_program']\n"
    wrong += "w.examine, main = globals().get('examine'), w.main\n"
    whole = check_helper._MODULES
    monkeypatch.setattr(check_helper, "_MODULES", [*whole, ("wrong", wrong)])
    checking = Checking(CheckLimits(max_silence=1))
    assert checking.verdict(b"x = (\n") is None
    assert checking.trouble(b"x = (\n")
    monkeypatch.setattr(check_helper, "_MODULES", whole)
    wait_for(lambda: checking.verdict(b"x = (\n"), "a verdict as soon as it goes well")


@pytest.mark.parametrize(("times", "compiles"), [(1, True), (2, False)])
def test_a_limit_counts_when_it_is_reached_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, compiles: bool
) -> None:
    """The machine may have been short of memory; a source that reaches it again needs too much."""
    tried = tmp_path / "tried"
    tried.touch()
    short = "\n".join(
        [
            "import sys",
            "w = sys.modules['agent.reload.check_program']",
            "real, main = w.examine, w.main",
            "def examine(source):",
            f"    with open({str(tried)!r}, 'r+') as file:",
            "        count = len(file.read())",
            "        file.write('.')",
            f"    if count < {times}: raise MemoryError",
            "    return real(source)",
            "w.examine = examine",
        ]
    )
    monkeypatch.setattr(check_helper, "_MODULES", [*check_helper._MODULES, ("short", short)])
    verdict = Checking().verdict(b"x = 1\n")
    assert verdict is not None
    assert (verdict.error is None) is compiles
    assert len(tried.read_text()) == 2
