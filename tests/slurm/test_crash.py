"""SIGKILL at every step: no event is lost, and none is handled twice without being marked."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.slurm.asking import Agent
from agent.slurm.handling import Handler
from agent.slurm.log import Log
from agent.slurm.spool import Spool
from agent.slurm.store import Store
from support.slurm_site import Site


class Steps:
    """Counts what reaches the disk, and kills this process before the step with a number."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **named: Any) -> Any:
            self.step()
            return work(*args, **named)

        return counting


def live(site: Site, kill_at: int) -> None:
    """What the daemon does, in this process: takes all events, and runs what fires."""
    steps = Steps(kill_at)

    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> sqlite3.Cursor:
            steps.step()
            return super().execute(*args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **named: connect(*a, factory=Connection, **named)  # type: ignore[assignment]
    os.unlink = steps.counted(os.unlink)
    spool, store = Spool(str(site.spool)), Store(str(site.folder / "state.db"))
    handler = Handler(store, Agent(str(site.agent.pipe)), Log(str(site.log), "json"))
    runs = [*store.runs(), *handler.take(spool, spool.waiting()).runs]
    for run in runs:
        store.begin_run(run.number)
        steps.step()
        repeat = "again" if run.repeat else "first"
        with site.notes.open("a") as notes:
            notes.write(f"{run.source} {run.owner} {run.callback['file']} {repeat}\n")
        steps.step()
        store.end_run(run.number)
    store.close()


def forked(work: Callable[[], None]) -> int:
    """Do it in a child; the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code <= 0
    return -code


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    conf = "a.py = complete-job-self\nb.py = complete-job-self && complete-job-parent\n"
    site = Site(tmp_path_factory.mktemp("crash") / "site", conf, a_py="pass\n", b_py="pass\n")
    site.agent.start()
    yield site
    site.close()


def test_sigkill_at_every_step(serving: Site) -> None:
    """A job and its child, each of which completes. Both have a.py, and the child has b.py."""
    kill_at = 0
    while True:
        kill_at += 1
        for file in (*serving.spool.iterdir(), *serving.folder.glob("state.db*"), serving.notes):
            file.unlink(missing_ok=True)
        leave(serving)
        killed = forked(lambda: live(serving, kill_at))  # noqa: B023
        forked(lambda: live(serving, 0))
        assert [*serving.spool.iterdir()] == []
        noted = [line.rsplit(" ", 1) for line in serving.noted()]
        first = [what.split(" ", 1)[1] for what, how in noted if how == "first"]
        again = [what for what, how in noted if how == "again"]
        # A callback that was begun and did not come to its note is a repeat without a first.
        missing = {"10 a.py", "11 a.py", "11 b.py"} - set(first)
        assert len(first) == len(set(first))
        assert len(again) <= 1
        assert {what.split(" ", 1)[1] for what in again} >= missing
        if not killed:
            break
    assert kill_at > 60
    assert sorted(first) == ["10 a.py", "11 a.py", "11 b.py"]


def leave(site: Site) -> None:
    """The events, as the hook would leave them."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for number, text in enumerate(
        (
            "SLURM_JOB_ID=10\0SLURM_JOB_UID=1\0",
            "SLURM_JOB_ID=11\0SLURM_JOB_UID=1\0SLURM_JOB_COMMENT=parent=10\0",
            "JOBID=10\0JOBSTATE=COMPLETED\0END=1\0",
            "JOBID=11\0JOBSTATE=COMPLETED\0END=1\0",
        )
    ):
        (site.spool / f"{boot}.{number + 1}.00.7.event").write_bytes(text.encode())
