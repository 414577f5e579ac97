"""Sources that take long to compile harm no other directory, and have a budget in their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.languages import Verdict
from agent.core.python_source import MAX_CALLS
from agent.core.unit import Implementation
from agent.reload.check_helper import Helper
from agent.reload.syntax_check import Checker
from agent.timing import CheckLimits, Timing
from faults.helpers import ENDLESS, SLOW, findings
from faults.steps import held
from support.agents import Agent, wait_for, write
from support.sites import replace
from support.targets import Checking

NAMES = [f"s{number}.py" for number in range(10)]
CONF = "".join(f"{name} = done-job-self\n" for name in NAMES)


def slow_files(directory: Path, source: str) -> None:
    directory.mkdir(exist_ok=True)
    for number, name in enumerate(NAMES):
        replace(directory / name, source + f"x = {number}\n")
    replace(directory / "callbacks.conf", CONF)


def test_ten_slow_sources_keep_nobody_waiting(tmp_path: Path) -> None:
    """They take minutes. Whatever is served before they are checked did not wait for them."""
    slow = write(tmp_path / "slow", CONF, **{name.replace(".", "_"): "1\n" for name in NAMES})
    other = write(tmp_path / "other", "b.py = submit-job-self\n", b_py="1\n")
    agent = Agent(tmp_path, slow, other).use(
        Timing(checks=CheckLimits(max_cpu=10_000, budget=10_000))
    )
    agent.start()
    try:
        slow_files(slow, ENDLESS)
        # `reload` answers, and says that the edit is held.
        assert {h["directory"]: h["reason"] for h in agent.reload()["held"]} == {
            str(slow): "not-checked"
        }
        for number in range(3):
            replace(other / "b.py", f"{number}\n")
            wait_for(lambda n=number: agent.fires("submit-job-self") and code(agent) == f"{n}\n")  # type: ignore[misc]
        replace(other / "b.py", "x = (\n")
        wait_for(lambda: held(agent).get(str(other)) == "error")
        assert held(agent)[str(slow)] == "not-checked"
        assert {c["file"] for c in agent.lookup("done-job-self")["callbacks"]} == set(NAMES)
        agent.stop()
        # After a restart all is served at once, though the edits came while no agent ran.
        slow_files(slow, ENDLESS + "pass\n")
        agent.start()
        assert len(agent.fires("done-job-self")) == len(NAMES)
        assert held(agent)[str(slow)] == "not-checked"
        wait_for(lambda: held(agent).get(str(other)) == "error")
        # Simpler again: served, whatever was waiting.
        slow_files(slow, "")
        replace(other / "b.py", "5\n")
        agent.reload()
        wait_for(lambda: not held(agent))
    finally:
        agent.stop()


def code(agent: Agent) -> str:
    code: str = agent.lookup("submit-job-self", code=True)["callbacks"][0]["code"]
    return code


def test_a_directory_over_its_budget_is_held(tmp_path: Path, directory: Path) -> None:
    write(directory, CONF, **{name.replace(".", "_"): "1\n" for name in NAMES})
    agent = Agent(tmp_path, directory).use(Timing(checks=CheckLimits(budget=0.5)))
    agent.start()
    try:
        slow_files(directory, SLOW)
        wait_for(lambda: findings(agent) == {"check-budget": "error"})
        assert held(agent) == {str(directory): "error"}
        (finding,) = agent.history()[-1]["diagnostics"]
        assert finding["path"] == str(directory)
        assert "are not checked: s" in finding["message"]
        assert {code for _, _, code in agent.served()} == {"1\n"}
        slow_files(directory, "")
        agent.reload()
        wait_for(lambda: not held(agent))
        assert len({code for _, _, code in agent.served()}) == len(NAMES)
    finally:
        agent.stop()


def test_at_a_first_reading_what_is_over_the_budget_is_served(
    tmp_path: Path, directory: Path
) -> None:
    slow_files(directory, SLOW)
    agent = Agent(tmp_path, directory).use(Timing(checks=CheckLimits(budget=0.5)))
    agent.start()
    try:
        assert len(agent.served()) == len(NAMES)
        wait_for(lambda: findings(agent) == {"check-budget": "error"})
        assert len(agent.served()) == len(NAMES)
    finally:
        agent.stop()


def test_only_the_newest_version_waits() -> None:
    """782 saves in 40 s of a source that takes long."""
    checker = Checker(lambda _: None, CheckLimits())
    for number in range(782):
        one = Implementation.of(SLOW.encode() + b"x = %d\n" % number)
        checker.use("/cb", {one.digest: one.code}, [one.digest])
    assert waiting(checker) == [one.code]
    # An urgent source goes first, one without a directory not at all.
    other = Implementation.of(b"1\n")
    checker.use("/cb", {one.digest: one.code, other.digest: other.code}, [other.digest])
    assert waiting(checker) == [other.code, one.code]
    checker.use("/cb", {})
    assert waiting(checker) == []
    assert not checker._queue._checks


def waiting(checker: Checker) -> list[bytes]:
    """The sources that the quick lane would check now, in turn."""
    found = []
    while (check := checker._queue.next(slow=False)) is not None:
        found.append(check.source)
    for check in checker._queue._checks.values():
        checker._queue.requeue(check)
    return found


def test_directories_have_their_turns() -> None:
    checker = Checker(lambda _: None, CheckLimits())
    for directory, count in (("/a", 5), ("/b", 2), ("/c", 1)):
        sources = [Implementation.of(f"{directory}{n}".encode()) for n in range(count)]
        checker.use(directory, {s.digest: s.code for s in sources})
    assert b" ".join(waiting(checker)) == b"/a0 /b0 /c0 /a1 /b1 /a2 /a3 /a4"


def test_a_running_check_that_nobody_needs_is_abandoned() -> None:
    """The slow lane is free again as soon as the source was edited."""
    checking = Checking(CheckLimits(max_cpu=10_000))
    one, two = (ENDLESS + "1\n").encode(), (ENDLESS + "2\n").encode()
    for source in (one, two, one):
        checking.begin(source)
    assert checking.verdict(b"x = (\n") is not None
    # As slow as the others at first, but this one ends.
    verdict = checking.verdict(SLOW.encode())
    assert verdict is not None
    assert verdict.error is None


def test_verdicts_of_sources_in_use_are_never_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of others are, by their bytes."""
    sent: list[bytes] = []
    monkeypatch.setattr(Helper, "send", counted(Helper.send, sent))
    checking = Checking(CheckLimits(max_unused_bytes=100_000))
    files = [f"import sys\nsys.exit({n})\n".encode() * 20 for n in range(60)]
    before = checking.verdicts("/used", files)
    assert len(sent) == 60
    for number in range(30):
        checking.verdicts("/edited", [b"exit()\n" * 100 + b"%d\n" % number])
    assert checking.verdicts("/used", files) == before
    assert len(sent) == 90, "none of them was checked twice"
    checker = checking.checker
    assert 0 < checker._queue._unused_bytes <= 100_000
    assert len(checker._queue._checks) < 60 + 30
    # What is taken back soon is known as well.
    checking.verdicts("/edited", [b"exit()\n" * 100 + b"%d\n" % 28])
    assert len(sent) == 90


def counted(send: Callable[..., object], sent: list[bytes]) -> Callable[..., object]:
    def counts(self: Helper, source: bytes, second_try: bool = False) -> object:
        sent.append(source)
        return send(self, source, second_try)

    return counts


def test_a_source_with_many_findings_costs_little() -> None:
    """The helper sends the first ones and a count. One line may have them all."""
    for source in (b"exit()\n" * 40_000, b"exit();" * 40_000 + b"\n"):
        verdict: Verdict | None = Checking().verdict(source)
        assert verdict is not None
        assert verdict.error is None
        assert len(verdict.warnings) == MAX_CALLS
        assert verdict.more == 40_000 - MAX_CALLS
        assert (verdict.warnings[0].line, verdict.warnings[0].column) == (1, 1)


def test_the_rest_of_the_findings_is_counted(tmp_path: Path, directory: Path) -> None:
    write(directory, "a.py = done-job-self\n", a_py="exit()\n" * 250)
    agent = Agent(tmp_path, directory)
    agent.start()
    try:
        wait_for(lambda: findings(agent) == {"exits": "warning", "more-findings": "warning"})
        found = agent.history()[-1]["diagnostics"]
        assert len(found) == MAX_CALLS + 1
        assert "150" in found[-1]["message"]
        assert os.path.basename(found[-1]["path"]) == "a.py"
    finally:
        agent.stop()
