"""What callbacks ask of the farm, done by a real Slurm."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.runner import Farm, Target
from agent.slurm.commands import NotThere, Slurm, SlurmError
from agent.slurm.farm import SlurmFarm
from support.agents import wait_for
from support.slurm_cluster import Cluster, cluster, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

MAIL = """#!/bin/sh
{ for word; do printf '%s\\n' "$word"; done; cat; } >$(dirname "$0")/mail.tmp
mv $(dirname "$0")/mail.tmp $(dirname "$0")/mailed
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("mail")
    program = folder / "mail"
    program.write_text(MAIL)
    program.chmod(0o755)
    with cluster({"MailProg": str(program)}) as started:
        yield started


@pytest.fixture(scope="module")
def slurm(one: Cluster) -> Iterator[Slurm]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", one.environ["PATH"])
        yield Slurm(str(one.conf))


@pytest.fixture(scope="module")
def farm(slurm: Slurm) -> Farm:
    return SlurmFarm(slurm, lambda job: {"pgrp": job})


@pytest.fixture(autouse=True)
def nothing_runs(one: Cluster) -> Iterator[None]:
    yield
    one.scancel("--partition=p")
    wait_for(lambda: not one.squeue(), "the end of all jobs")


def states(slurm: Slurm, job: int) -> dict[str, str]:
    return {row.task: row.state for row in slurm.rows([job], ended=True)}


def until(slurm: Slurm, job: int, **expected: str) -> None:
    """Wait until the tasks of a job are in these states: `_0="RUNNING"`, `_` for no task."""
    wanted = {name.removeprefix("_"): state for name, state in expected.items()}
    wait_for(lambda: states(slurm, job) == wanted, f"{wanted}")


def test_squeue_is_read_whatever_users_write(one: Cluster, slurm: Slurm) -> None:
    name = "a b=c\nJobId=1 UserId=root(0) |\x1f,%i \\n %j"
    waiting = ",".join(f"{n}-{n + 2}" for n in range(10, 400, 7)) + "%2"
    job = one.sbatch(
        "sleep 100", f"--job-name={name}", "--comment=label=x y; z", f"--array=3,5,{waiting}"
    )
    held = one.sbatch("true", f"--dependency=afterok:{job}", "--job-name=(null)")
    wait_for(lambda: len([r for r in slurm.rows() if r.state == "RUNNING"]) == 2, "two tasks")
    rows = {(row.array, row.task): row for row in slurm.rows()}
    assert rows.keys() == {(job, "3"), (job, "5"), (job, waiting), (held, "")}
    task = rows[job, "5"]
    assert (task.name, task.comment, task.user) == (name, "label=x y; z", "root")
    assert (task.state, task.partition, task.uid) == ("RUNNING", "p", 0)
    assert task.id not in (job, held)
    assert 0 < task.submitted <= task.started
    assert task.ended == 0
    waits = rows[held, ""]
    assert (waits.name, waits.comment) == ("", "")
    assert waits.dependency == f"afterok:{job}_*(unfulfilled)"
    assert (waits.state, waits.reason, waits.started) == ("PENDING", "Dependency", 0)
    assert [row.task for row in slurm.rows([held])] == [""]
    assert slurm.rows([held + 1000]) == []
    assert slurm.rows([held, held + 1000]) == slurm.rows([held])


def test_the_environment_does_not_change_what_is_read(
    one: Cluster, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = one.sbatch("sleep 100")
    monkeypatch.setenv("SQUEUE_STATES", "COMPLETED")
    monkeypatch.setenv("SQUEUE_FORMAT2", "JobID")
    monkeypatch.setenv("SLURM_CLUSTERS", "another")
    assert [row.id for row in Slurm(str(one.conf)).rows()] == [job]


def test_a_job_is_blocked_unblocked_modified_and_killed(
    one: Cluster, slurm: Slurm, farm: Farm
) -> None:
    job = one.sbatch("sleep 100", "--begin=now+1hour", "--array=0-2")
    farm.block(Target(job))
    (found,) = farm.jobinfo([job])
    assert (found["status"], found["user"], found["pgrp"]) == ("blocked", "root", job)
    farm.unblock(Target(job, "work", "1"))
    assert farm.jobinfo([job])[0]["status"] == "waiting"
    farm.unblock(Target(job))
    farm.modify(Target(job), {"priority": 77, "comment": "a b=c", "Nice": 0})
    (found,) = farm.jobinfo([job])
    assert (found["priority"], found["comment"]) == (77, "a b=c")
    farm.kill(Target(job, "work", "1"))
    wait_for(lambda: states(slurm, job).get("1") == "CANCELLED", "a cancelled task")
    assert farm.jobinfo([job])[0]["status"] != "killed"
    farm.kill(Target(job))
    wait_for(lambda: farm.jobinfo([job])[0]["status"] == "killed", "a cancelled array")
    json.dumps(farm.jobinfo([job]))


def test_what_runs_is_suspended_resumed_and_interrupted(
    one: Cluster, slurm: Slurm, farm: Farm
) -> None:
    job = one.sbatch("sleep 100", "--array=0-1%1")
    until(slurm, job, _0="RUNNING", _1="PENDING")
    # One of them only waits: it is done to the other.
    farm.suspend(Target(job))
    assert states(slurm, job)["0"] == "SUSPENDED"
    farm.resume(Target(job, "work", "0"))
    assert states(slurm, job)["0"] == "RUNNING"
    with pytest.raises(SlurmError, match=rf"scontrol resume {job}_0: .*not suspended"):
        farm.resume(Target(job, "work", "0"))
    assert farm.jobinfo([job])[0]["work"][0]["status"] in ("running", "waiting")
    farm.block(Target(job))
    farm.interrupt(Target(job))
    wait_for(lambda: {"PENDING"} == set(states(slurm, job).values()), "all wait")
    with pytest.raises(SlurmError, match="does not run"):
        farm.interrupt(Target(job))


def test_what_failed_is_run_again(one: Cluster, slurm: Slurm, farm: Farm) -> None:
    job = one.sbatch("[ $SLURM_ARRAY_TASK_ID = 0 ]", "--array=0-1")
    # At once: while its epilog runs, the task is neither running nor failed.
    wait_for(lambda: states(slurm, job).get("1") in ("COMPLETING", "FAILED"), "a failed task")
    farm.retry(Target(job, "work", "1"))
    # Slurm lets what is requeued wait, for as long as the right to its first start is valid.
    assert states(slurm, job)["1"] == "PENDING"
    wait_for(lambda: states(slurm, job)["0"] == "COMPLETED", "a complete task")
    with pytest.raises(SlurmError, match=rf"nothing to retry: job {job} work 0 is COMPLETED"):
        farm.retry(Target(job, "work", "0"))
    with pytest.raises(SlurmError, match="MinJobAge"):
        farm.retry(Target(job + 1000))
    farm.requeue(Target(job, "work", "0"))
    assert "COMPLETED" not in states(slurm, job).values()


def test_mail_is_sent_by_slurms_own_program(one: Cluster, slurm: Slurm, farm: Farm) -> None:
    mailed = Path(slurm.setting("MailProg")).parent / "mailed"
    job = one.sbatch(
        "exit 3", "--job-name=a\nBcc: b", "--mail-user=mia@farm", "--mail-type=INVALID_DEPEND"
    )
    until(slurm, job, _="FAILED")
    farm.mail(Target(job), "status")
    assert mailed.read_text().splitlines()[:3] == [
        "-s", f"Slurm Job_id={job} Name=a\\nBcc: b FAILED", "mia@farm",
    ]  # fmt: skip
    mail = Path(slurm.setting("MailProg"))
    for code, why in (
        ("#!/bin/sh\necho no such user >&2; exit 1\n", "no such user"),
        ("#!/nowhere\n", "it cannot be run: No such file or directory; set MailProg in slurm.conf"),
    ):
        mail.write_text(code)
        with pytest.raises(SlurmError, match=f"mail: MailProg {mail}: {why}"):
            farm.mail(Target(job), "status")
    job = one.sbatch("sleep 100", "--mail-user=-Xlog", "--mail-type=INVALID_DEPEND")
    with pytest.raises(SlurmError, match=rf"-Xlog of job {job} is not an address"):
        farm.mail(Target(job), "status")


CANNOT: list[tuple[Callable[[Farm], object], str]] = [
    (lambda farm: farm.fail(Target(7)), "cannot end job 7 as failed; kill"),
    (lambda farm: farm.complete(Target(7, "work", "3")), "cannot end job 7 work 3 as complete"),
    (lambda farm: farm.preempt(Target(7)), "block"),
    (lambda farm: farm.migrate(Target(7)), "ExcNodeList"),
    (lambda farm: farm.kill(Target(7, "subjob", "0")), "no instances: job 7 subjob 0"),
    (lambda farm: farm.kill(Target(7, "work", "frame 7")), "named by its number, such as 7:7"),
    (lambda farm: farm.kill(Target(7, "work", "-1")), "named by its number"),
    (lambda farm: farm.mail(Target(7), "license-status"), "no mail license-status"),
    (lambda farm: farm.mail(Target(7777), "status"), "MinJobAge"),
    (lambda farm: farm.modify(Target(7), {"JobId": 8}), "JobId cannot be changed here; expected"),
    (lambda farm: farm.modify(Target(7), {"NodeName": "x", "State": "down"}), "NodeName"),
    (lambda farm: farm.suspend(Target(7777)), "suspend: Slurm does not know job 7777"),
    (lambda farm: farm.block(Target(7777)), "hold: .*MinJobAge"),
]


def test_what_slurm_cannot_do_says_so(farm: Farm) -> None:
    for call, message in CANNOT:
        with pytest.raises(SlurmError, match=message):
            call(farm)


def test_a_slurm_that_does_not_answer(tmp_path: Path, one: Cluster) -> None:
    slow = tmp_path / "scancel"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    with pytest.MonkeyPatch.context() as at:
        at.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(NotThere, match=r"scancel 7: no answer within 0\.2 s"):
            SlurmFarm(Slurm(str(one.conf), time_limit=0.2)).kill(Target(7))
        at.setenv("PATH", str(tmp_path))
        with pytest.raises(SlurmError, match="install Slurm's client programs or set PATH"):
            SlurmFarm(Slurm(str(one.conf))).jobinfo([])
