"""What fails leaves nothing to the garbage collector.

It never looks at what a large reload made. The traceback of an error has the variables of the
functions that it went through: where one of them has the error, that is a cycle.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from agent.core import planning
from agent.core.unit import Plan
from agent.disk import directory
from agent.disk.stalls import StallMonitor
from agent.reload.plans import MAX_INLINE, Plans
from agent.reload.reloader import no_collection
from support.agents import DEADLINE, wait_for


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    yield
    (gc.enable if enabled else gc.disable)()


class Failure(Exception):
    """What a piece of work raises."""


class Work:
    """Work that fails, and what is left of it."""

    def __init__(self) -> None:
        self.left: weakref.ref[Failure] | None = None

    def fail(self, *_: object) -> Plan:
        error = Failure("on purpose")
        self.left = weakref.ref(error)
        try:
            raise error
        finally:
            del error

    def is_freed(self) -> bool:
        return self.left is not None and self.left() is None


def test_a_directory_that_is_unmounted(tmp_path: Path) -> None:
    def planner(*_: object) -> None:
        """Stands for all that the reading knows."""

    left: Callable[[], object] = weakref.ref(planner)
    reading = directory.read(str(tmp_path), device=1, planner=planner).reading
    del planner
    assert reading.fault is not None
    assert reading.fault.code == "unmounted"
    assert left() is None


def test_a_parser_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    monkeypatch.setattr(planning, "plan", work.fail)
    plans = Plans(lambda _: None, wait=DEADLINE)
    with suppress(Failure):
        plans.plan("/cb", "/cb/callbacks.conf", b"#" * MAX_INLINE * 2, None)
    wait_for(work.is_freed)


def test_work_on_a_file_system_that_fails() -> None:
    work = Work()

    async def ask() -> None:
        with suppress(Failure):
            await StallMonitor(lambda: None, lambda _: None, DEADLINE).wait(work.fail)

    anyio.run(ask)
    wait_for(work.is_freed)


def test_the_objects_of_a_reload_that_fails_are_looked_at() -> None:
    before = gc.get_freeze_count()
    gc.enable()
    with suppress(Failure), no_collection(freeze=True):
        made: list[list[int]] = [[] for _ in range(100_000)]
        raise Failure
    assert len(made) == 100_000
    assert gc.get_freeze_count() == before
