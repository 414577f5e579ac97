"""The garbage collector does not run during a reload, and runs between two."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

import pytest

from agent.reload.reloader import no_collection
from support.agents import Agent, wait_for, write

#: Runs the agent, and notes whether the collector may run: while a reload computes, and after it.
_PROGRAM = """
import gc
from agent import __main__
from agent.reload.listing import Listing
from agent.reload.reloader import Reloader

def noted(cls, name, label):
    work = getattr(cls, name)
    def note(self, *args):
        with open({notes!r}, "a") as file:
            print(label, gc.isenabled(), file=file)
        return work(self, *args)
    setattr(cls, name, note)

noted(Listing, "next_index", "reload")
noted(Reloader, "_wait_for_work", "wait")
__main__.main()
"""


def test_a_reload_is_not_interrupted_by_collections(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", "a.pl = x-job-1\n", a_pl="1\n")
    notes = tmp_path / "notes"
    agent = Agent(tmp_path, directory)
    agent.program = ["-c", _PROGRAM.format(notes=str(notes))]
    agent.start()
    try:
        # The first reload begins without collections, which begin once it is served.
        agent.reload()
        wait_for(lambda: "wait True" in notes.read_text())
        notes.write_text("")
        (directory / "a.pl").write_text("2\n")
        wait_for(lambda: agent.served()[0][2] == "2\n")
        wait_for(lambda: "wait True" in notes.read_text())
        assert {*notes.read_text().splitlines()} == {"reload False", "wait True"}
    finally:
        agent.stop()


@pytest.mark.parametrize("enabled", [True, False])
def test_collections_are_then_as_they_were(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(ValueError), no_collection():
            meanwhile = gc.isenabled()
            raise ValueError("a reload that fails")
        assert not meanwhile
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.parametrize(
    ("freeze", "objects", "frozen"),
    [(True, 10, False), (True, 100_000, True), (False, 100_000, False)],
)
def test_the_collector_does_not_look_at_the_objects_of_a_large_reload(
    freeze: bool, objects: int, frozen: bool
) -> None:
    enabled = gc.isenabled()
    gc.enable()
    gc.collect()
    before = gc.get_freeze_count()
    try:
        with no_collection(freeze):
            made: list[list[int]] = [[] for _ in range(objects)]
        count = gc.get_freeze_count()
        assert (count - before >= objects) is frozen
        del made
        # They are freed all the same.
        assert count - gc.get_freeze_count() >= objects * frozen
    finally:
        gc.unfreeze()
        if not enabled:
            gc.disable()
