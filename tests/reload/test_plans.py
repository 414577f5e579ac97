"""Large callbacks.conf files are parsed once each, in a thread, and nothing waits long for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent.core import planning
from agent.core.unit import Plan
from agent.disk.stalls import StallMonitor, computing
from agent.reload.plans import MAX_INLINE, Plans
from agent.timing import DEFAULTS
from support.agents import Agent, wait_for, write

SMALL = b"a.py = done-job-self\n"
LARGE = b"".join(b"a.py = x%d-job-self\n" % n for n in range(MAX_INLINE // 20 + 1000))


class Parser:
    """Counts what is parsed, and parses large files only when it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.parsed: list[bytes] = []
        self.reported: list[str] = []
        self.error: Exception | None = None

    def plan(self, data: bytes, path: str, before: Plan | None = None) -> Plan:
        self.parsed.append(data)
        if len(data) > MAX_INLINE:
            assert self.may.wait(60)
        if self.error is not None:
            raise self.error
        return Plan()


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parser]:
    parser = Parser()
    monkeypatch.setattr(planning, "plan", parser.plan)
    yield parser
    parser.may.set()


def test_a_small_file_is_parsed_at_once(parser: Parser) -> None:
    found = Plans(parser.reported.append, wait=0.01)
    assert found.plan("/cb", "/cb/callbacks.conf", SMALL, None) == Plan()
    assert parser.reported == []


def test_a_large_file_is_parsed_once_however_often_it_is_asked_for(parser: Parser) -> None:
    found = Plans(parser.reported.append, wait=0.01)
    for _ in range(5):
        assert found.plan("/cb", "/cb/callbacks.conf", LARGE, None) is None
    # Another directory does not wait for it.
    assert found.plan("/other", "/other/callbacks.conf", SMALL, None) == Plan()
    parser.may.set()
    wait_for(lambda: parser.reported == ["/cb"], "the plan")
    for _ in range(5):
        assert found.plan("/cb", "/cb/callbacks.conf", LARGE, None) == Plan()
    assert parser.parsed.count(LARGE) == 1


def test_only_the_newest_content_waits(parser: Parser) -> None:
    found = Plans(parser.reported.append, wait=0.01)
    contents = [LARGE + b"# %d\n" % n for n in range(10)]
    for content in contents:
        assert found.plan("/cb", "/cb/callbacks.conf", content, None) is None
        wait_for(lambda: parser.parsed, "the first to be begun")
    parser.may.set()
    wait_for(lambda: len(parser.reported) == 2, "the first, which was begun, and the newest")
    assert parser.parsed == [contents[0], contents[-1]]
    assert found.plan("/cb", "/cb/callbacks.conf", contents[-1], None) == Plan()


def test_what_the_parser_raises_is_raised_once_and_then_tried_again(parser: Parser) -> None:
    found = Plans(parser.reported.append, wait=0.01)
    parser.error = MemoryError("none left")
    parser.may.set()
    wait_for(lambda: parser.reported or _raises(found, LARGE), "the error")
    parser.error = None
    wait_for(lambda: not _raises(found, LARGE), "no error")
    wait_for(lambda: found.plan("/cb", "/cb/callbacks.conf", LARGE, None) == Plan(), "the plan")


def _raises(found: Plans, data: bytes) -> bool:
    try:
        found.plan("/cb", "/cb/callbacks.conf", data, None)
    except MemoryError:
        return True
    return False


def test_a_directory_that_is_not_listed_any_more_is_forgotten(parser: Parser) -> None:
    found = Plans(parser.reported.append, wait=0.01)
    parser.may.set()
    wait_for(lambda: found.plan("/cb", "/cb/callbacks.conf", LARGE, None) == Plan(), "the plan")
    found.forget(["/cb"])
    wait_for(lambda: found.plan("/cb", "/cb/callbacks.conf", LARGE, None) == Plan(), "the plan")
    assert parser.parsed.count(LARGE) == 2


def test_to_compute_is_not_to_ask_a_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look of the monitor counts a question that is open, but not one that computes."""
    looks = 0
    real = anyio.sleep
    #: The monitor looks only meanwhile, however long the thread takes to begin and to end.
    working = threading.Event()

    async def sleep(_: float) -> None:
        nonlocal looks
        while not working.is_set():
            await real(0.001)
        looks += 1
        await real(0)

    async def main() -> None:
        monkeypatch.setattr(anyio, "sleep", sleep)
        done = threading.Event()
        monitor = StallMonitor(lambda: None, lambda _: None, DEFAULTS.stalled)

        def work(how: str) -> str:
            with monitor.asking("/cb"):
                if how == "computes":
                    with computing():
                        working.set()
                        done.wait(60)
                        working.clear()
                else:
                    working.set()
                    done.wait(60)
            return how

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(monitor.run)

            async def end_later() -> None:
                while looks < 40:
                    await real(0.001)
                done.set()

            tasks.start_soon(end_later)
            assert await monitor.wait(work, "computes") == "computes"
            done.clear()
            assert await monitor.wait(work, "asks") is None
            done.set()
            tasks.cancel_scope.cancel()

    anyio.run(main)


#: Runs the agent. What it parses of a large file is there as soon as a file of this name is.
_WAITING = """
import os, time
from agent.core import planning
real = planning.plan
def plan(data, *given):
    made = real(data, *given)
    while len(data) > {large} and not os.path.exists({may!r}):
        time.sleep(0.001)
    return made
planning.plan = plan
from agent.cli import main; main()
"""


def test_edits_elsewhere_and_removals_do_not_wait_for_a_parser(tmp_path: Path) -> None:
    one = "a.qcb = submit-job-self\n"
    large, other, may = tmp_path / "large", tmp_path / "other", tmp_path / "may"
    for directory in (large, other):
        write(directory, one, a_qcb="block-self\n")
    agent = Agent(tmp_path, large, other)
    agent.program = ["-c", _WAITING.format(large=MAX_INLINE, may=str(may))]
    agent.start()
    try:
        lines = [f"a.qcb = x{n}-job-self || y{n}-work-label-*z*\n" for n in range(2_000)]
        write(large, one + "".join(lines))
        write(other, one + "a.qcb = failed-job-self\n")
        wait_for(lambda: agent.fires("failed-job-self") == ["a.qcb"], "the edit elsewhere")
        assert agent.status()["callbacks"] == 3
        (large / "a.qcb").unlink()
        wait_for(lambda: len(agent.fires("submit-job-self")) == 1, "the removal")
        may.touch()
        agent.reload()
        assert agent.status()["callbacks"] == 2
    finally:
        agent.stop()
