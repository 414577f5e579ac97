"""Jobs of a real Slurm, whose callbacks run: hooks, spool, adapter, agent, and back to Slurm."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.slurm.setup import steps
from support.agents import wait_for
from support.slurm_cluster import missing
from support.slurm_farm import Farm, farm

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

#: A task waits until the test creates the file GO.TASK.
WAITS = "until [ -e {go}.$SLURM_ARRAY_TASK_ID ]; do sleep 0.05; done"


@pytest.fixture(scope="module")
def one() -> Iterator[Farm]:
    with farm() as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_runs(one: Farm) -> Iterator[None]:
    yield
    one.cluster.scancel("--partition=p")
    wait_for(lambda: not one.cluster.squeue(), "the end of all jobs")


def until(one: Farm, expected: list[str], *jobs: int) -> None:
    """Wait for what callbacks of jobs note, in any order."""

    def there() -> bool:
        return len(one.noted(*jobs)) >= len(expected)

    try:
        wait_for(there, f"{expected}")
    finally:
        assert sorted(one.noted(*jobs)) == sorted(expected), one.log.read_text()[-4000:]


def handled(one: Farm, *jobs: int) -> list[str]:
    """The events of jobs and their tasks, as the adapter had them."""
    found = [e for r in one.logged("event") if r["job"]["id"] in jobs for e in r["events"]]
    return [event for event in found if "-host-" not in event]


def test_setup_finds_that_all_is_done(one: Farm) -> None:
    found = steps(one.cluster.conf, str(one.hook), str(one.spool))
    assert [step.text for step in found if step.todo] == []
    assert len(found) == 5


def test_jobs_arrays_dependent_and_cancelled_ones(one: Farm, tmp_path: Path) -> None:
    names = ("begins", "frame", "bad", "both", "killed", "labelled")
    one.serve(
        "begins.py = running-job-self\n"
        "frame.py = complete-work-self-*\n"
        "bad.py = failed-work-self-1\n"
        "both.py = complete-job-self && complete-job-parent\n"
        "killed.py = killed-job-self\n"
        "labelled.py = failed-job-beauty\n"
        "mail.qcb = failed-job-self\n",
        mail_qcb="mail-status",
        **{f"{name}_py": one.note(name) for name in names},
    )
    submit = one.cluster.sbatch
    # A dependency on what is over already is none.
    go = tmp_path / "go"
    waits = f"until [ -e {go} ]; do sleep 0.05; done"
    fails = f"{waits}; [ $SLURM_ARRAY_TASK_ID != 1 ]"
    array = submit(fails, "--array=0-2", "--comment=label=beauty")
    plain = submit(waits)
    dependent = submit("true", f"--dependency=afterok:{plain}")
    # Of the array's process group, as it waits for it. It lives until it has heard of the failure:
    # the end of the array may be reported after a short job that follows it.
    heard = tmp_path / "heard"
    after = submit(f"while [ ! -e {heard} ]; do sleep 0.05; done", f"--dependency=afterany:{array}")
    long = submit("sleep 100")
    never = submit("true", "--begin=now+1hour")
    go.touch()
    wait_for(lambda: "running-job-self" in handled(one, long), "the start of the long job")
    one.cluster.scancel(str(long), str(never))
    until(one, ["begins", "frame", "frame", "bad", "labelled"], array)
    until(one, ["begins"], plain)
    until(one, ["begins", "both"], dependent)
    until(one, ["begins", "labelled"], after)
    heard.touch()
    until(one, ["begins", "killed"], long)
    until(one, ["killed"], never)
    wait_for(one.mails, "the mail")
    assert one.mails().startswith(f"Slurm Job_id={array} Name=wrap ")


def test_an_edit_between_two_tasks(one: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    conf = "first.py = complete-work-self-*\n"
    one.serve(conf, first_py=one.note("first"), second_py=one.note("second"))
    job = one.cluster.sbatch(WAITS.format(go=go), "--array=0-2")
    go.with_suffix(".0").touch()
    until(one, ["first"], job)
    one.serve(conf.replace("first.py", "second.py"))
    go.with_suffix(".1").touch()
    until(one, ["first", "second"], job)
    # A broken edit changes nothing.
    one.serve("third.py = complete-wrok-self-*\n", third_py=one.note("third"))
    assert one.agent.status()["state"] == "degraded"
    go.with_suffix(".2").touch()
    until(one, ["first", "second", "second"], job)


def test_what_callbacks_ask_is_done(one: Farm) -> None:
    one.serve(
        "kill.qcb = failed-work-self-0\nover.py = failed-job-self\nunblock.qcb = blocked-job-self\n"
        "info.py = complete-job-self\n",
        kill_qcb="kill-self",
        over_py=one.note("over"),
        unblock_qcb="unblock-self",
        info_py=one.note("", "(job,) = qb.jobinfo('-id', qb.jobid())\nnote(job['name'])\n"),
    )
    array = one.cluster.sbatch("[ $SLURM_ARRAY_TASK_ID != 0 ] && sleep 100", "--array=0-3")
    held = one.cluster.sbatch("true", "--hold", "--job-name=was held")
    until(one, ["over"], array)
    until(one, ["", "was held"], held)


def test_a_killed_adapter_loses_nothing(one: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    # Nobody cannot enter the folder of the test.
    goes = one.folder / "goes"
    waits = f"import time\nwhile not os.path.exists({str(goes)!r}): time.sleep(0.02)\nnote('end')\n"
    one.serve(
        "frame.py = complete-work-self-*\nslow.py = failed-work-self-*\nall.py = done-job-self\n",
        frame_py=one.note("frame"),
        slow_py=one.note("slow", waits),
        all_py=one.note("all"),
    )
    command = f"{WAITS.format(go=go)}; [ $SLURM_ARRAY_TASK_ID != 1 ]"
    job = one.cluster.sbatch(command, "--array=0-5")
    go.with_suffix(".0").touch()
    go.with_suffix(".1").touch()
    # One callback has run, and one is running.
    until(one, ["frame", "slow"], job)
    one.stop_adapter(signal.SIGKILL)
    for task in range(2, 6):
        go.with_suffix(f".{task}").touch()
    wait_for(lambda: not one.cluster.squeue(), "the end of the job")
    wait_for(lambda: one.waiting() >= 4, "events in the spool")
    goes.touch()
    one.start_adapter()
    # The one that was running is run again, and told so.
    wait_for(lambda: "all" in one.noted(job), "the end of the job")
    noted = one.noted(job)
    assert noted.count("frame") == 5
    assert noted.count("slow") == 1
    assert noted.count("slow1") == 1
    assert noted.count("all") == 1
    assert noted.count("end1") == 1
    wait_for(lambda: not one.waiting(), "an empty spool")
    events = handled(one, job)
    assert len(events) == len(set(events))


def test_slurmctld_restarts(one: Farm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    one.serve("frame.py = complete-work-self-*\n", frame_py=one.note("frame"))
    job = one.cluster.sbatch(WAITS.format(go=go), "--array=0-2")
    wait_for(lambda: len(one.cluster.squeue("-t", "R")) == 3, "three tasks")
    go.with_suffix(".0").touch()
    until(one, ["frame"], job)
    one.cluster.stop_controller()
    go.with_suffix(".1").touch()
    one.cluster.start_controller()
    go.with_suffix(".2").touch()
    until(one, ["frame"] * 3, job)
    events = handled(one, job)
    assert len(events) == len(set(events))
