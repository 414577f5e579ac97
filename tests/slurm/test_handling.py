"""A batch of events: what is kept of it where one of them cannot be handled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.client import NoAgent, Refused
from agent.slurm.asking import Agent, Found
from agent.slurm.handling import Handler
from agent.slurm.known import Event, Job, Known
from agent.slurm.log import Log
from agent.slurm.spool import Spool
from agent.slurm.store import Pending, Store

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
PATH, TRIGGER = "/farm/a.py", "running-job-self && complete-job-self"


class Stub(Agent):
    """An agent that has one callback, and fails for one job."""

    def __init__(self, fails: Callable[[], Exception]) -> None:
        super().__init__("/none")
        self.fails: Callable[[], Exception] | None = fails

    def ask(self, event: Event, job: Job, known: Known, pending: Pending) -> Found:
        if job.id == 8 and event.name == "running" and self.fails:
            raise self.fails()
        if event == Event("running", "job"):
            return Found([], [(job.id, PATH, TRIGGER, "complete-job-self")])
        if event == Event("complete", "job"):
            return Found([(job.id, {"path": PATH, "trigger": TRIGGER})], [])
        return Found()


class Place:
    """A spool with the starts of jobs 7, 8 and 9, and the end of 7; and what handles them."""

    def __init__(self, folder: Path, fails: Callable[[], Exception]) -> None:
        (folder / "spool").mkdir(mode=0o700)
        self.spool = Spool(str(folder / "spool"))
        self.store = Store(str(folder / "state.db"))
        self.stub = Stub(fails)
        self.log = folder / "log"
        self.handler = Handler(self.store, self.stub, Log(str(self.log), "json"))
        self.names = []
        texts = [f"SLURM_JOB_ID={job}\0" for job in (7, 8, 9)]
        texts.append("JOBID=7\0JOBSTATE=COMPLETED\0END=1\0")
        for number, text in enumerate(texts):
            self.names.append(f"{BOOT}.{number}.00.1.event")
            (folder / "spool" / self.names[-1]).write_text(text)

    def take(self) -> list[int]:
        """Handle all; the jobs whose callbacks are to run. What is known is as on disk."""
        runs = self.handler.take(self.spool, self.spool.waiting()).runs
        saved, known = self.store.known(), self.handler.known
        assert (saved.jobs, saved.tasks) == (known.jobs, known.tasks)
        assert not known.changed
        return [run.owner for run in runs]

    def left(self) -> list[str]:
        return [one.name for one in self.spool.waiting()]

    def told(self) -> str:
        return "".join(
            json.loads(line).get("message", "") for line in self.log.read_text().splitlines()
        )


def test_what_the_agent_did_not_answer_waits_with_all_behind_it(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda: NoAgent("nobody is there"))
    assert place.take() == []
    assert place.left() == place.names[1:]
    assert place.handler.known.jobs.keys() == {7}
    assert place.store.pending() == {7: {(PATH, TRIGGER): "complete-job-self"}}
    place.stub.fails = None
    assert place.take() == [7]
    assert place.left() == []
    assert place.store.pending().keys() == {8, 9}
    assert [run.owner for run in place.store.runs()] == [7]


def test_an_error_of_this_program_sets_one_event_aside(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda: ValueError("a mistake"))
    assert place.take() == [7]
    assert place.left() == []
    assert place.handler.known.jobs.keys() == {7, 9}
    assert "ValueError: a mistake" in place.told()
    assert (tmp_path / "spool" / "bad" / place.names[1]).exists()
    assert place.store.counters() == {"events": 3, "events_bad": 1}


def test_an_event_that_the_agent_refuses_fires_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda: Refused(-32602, "Invalid params", None, 0))
    assert place.take() == [7]
    assert place.handler.known.jobs.keys() == {7, 8, 9}
    assert "the agent refuses running-job-self of job 8" in place.told()
    assert place.store.counters()["events_refused"] == 1


def test_an_agent_that_refuses_this_user_is_waited_for(tmp_path: Path) -> None:
    place = Place(tmp_path, lambda: Refused(-32000, "refused"))
    assert place.take() == []
    assert place.left() == place.names[1:]


def test_a_shortage_of_descriptors_is_not_the_fault_of_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, lambda: NoAgent(""))
    place.stub.fails = None

    def read(name: str) -> bytes:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(place.spool, "read", read)
        with pytest.raises(OSError, match="Too many"):
            place.take()
    assert place.take() == [7]
