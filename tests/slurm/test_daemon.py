"""The daemon with a real agent and the real hook; the test plays Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.agents import wait_for
from support.slurm_site import Site, script

#: Look at the queue often.
POLL = ("--poll", "0.2")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    try:
        yield site
    finally:
        site.close()


def install(site: Site, **triggers: str) -> None:
    """Callbacks that note their name, by name."""
    for name in triggers:
        (site.callbacks / f"{name}.py").write_text(site.note(name))
    conf = "".join(f"{name}.py = {trigger}\n" for name, trigger in triggers.items())
    (site.callbacks / "callbacks.conf").write_text(conf)


def serve(site: Site, **triggers: str) -> Site:
    """Serve callbacks that note their name, by trigger."""
    install(site, **triggers)
    site.agent.start()
    site.start()
    wait_for(lambda: any("first look" in one["message"] for one in site.told("message")))
    return site


def row(job: int, state: str, task: str = "N/A", own: int = 0, **more: Any) -> dict[str, Any]:
    """A line of squeue, by letter."""
    found = {"A": own or job, "F": job, "K": task, "T": state, "U": 1000, "u": "mia"}
    return {**found, "j": "wrap", "r": "None", "E": "(null)", "N": "", "k": "(null)", **more}


def test_an_array_with_a_failing_task(site: Site) -> None:
    serve(
        site,
        work="complete-work-self-*",
        bad="failed-work-self-1",
        all="failed-job-self",
        runs="running-job-self",
    )
    # Where a report of an end is late, squeue is asked: it knows no more.
    site.queue([row(100, "COMPLETING", str(task), 101 + task) for task in (0, 1)])
    for task in (0, 1):
        site.prolog(100, task, SLURM_ARRAY_TASK_COUNT=2)
    # In either order.
    site.epilog(100, 0, SLURM_ARRAY_TASK_COUNT=2)
    site.jobcomp(100, "COMPLETED", 0)
    site.jobcomp(100, "FAILED", 1)
    site.epilog(100, 1, 768, SLURM_ARRAY_TASK_COUNT=2)
    wait_for(lambda: len(site.told("callback")) == 4 and len(site.told("event")) == 6)
    assert sorted(site.noted()) == ["all 100", "bad 100", "runs 100", "work 100"]
    assert site.noted()[0] == "runs 100"
    assert site.noted()[-1] == "all 100"
    assert site.events() == [
        *("submit-job-100", "running-job-100", "running-work-100-0", "running-host-100-node1"),
        *("running-work-100-1", "running-host-100-node1"),
        *("complete-work-100-0", "complete-host-100-node1"),
        *("failed-work-100-1", "failed-host-100-node1", "failed-job-100"),
    ]
    wait_for(lambda: not list(site.spool.iterdir()), "an empty spool")
    code, found = site.status()
    assert (code, found["faults"], found["waiting"], found["running"]) == (0, [], 0, True)
    assert site.stop() == 0
    code, found = site.status()
    assert (code, found["running"]) == (1, False)


def test_both_of_a_job_and_its_parent_also_over_a_restart(site: Site) -> None:
    site.options += POLL
    serve(site, both="complete-job-self && complete-job-parent", label="complete-job-other")
    waits = row(11, "PENDING", E="afterany:10(unfulfilled)", r="Dependency")
    site.queue([row(10, "RUNNING"), waits])
    site.prolog(10)
    wait_for(lambda: "waiting-job-11" in site.events())
    site.jobcomp(10, "COMPLETED")
    wait_for(lambda: "complete-job-10" in site.events())
    site.stop(signal.SIGKILL)
    site.options = site.options[: -len(POLL)]
    site.prolog(11)
    site.jobcomp(11, "COMPLETED")
    site.start()
    # That 13 waited for 12 is known only at its end. Then they are of one group.
    site.prolog(12)
    site.jobcomp(12, "COMPLETED")
    site.prolog(13, SLURM_JOB_NAME="other")
    site.jobcomp(13, "COMPLETED", DEPENDENCY="afterok:12(unfulfilled)", JOBNAME="other")
    wait_for(lambda: len(site.told("callback")) == 4)
    assert sorted(site.noted()) == ["both 11", "both 13", "label 12", "label 13"]


def test_events_wait_for_the_agent(site: Site) -> None:
    serve(site, ends="done-job-self")
    assert site.daemon is not None
    # It does not end the daemon, which systemd would not start again.
    site.daemon.send_signal(signal.SIGHUP)
    site.prolog(10)
    wait_for(lambda: len(site.events()) >= 2)
    site.agent.stop()
    site.jobcomp(10, "FAILED")
    site.prolog(11)
    wait_for(lambda: any("agent" in fault for fault in site.status()[1]["faults"]))
    code, found = site.status()
    assert (code, found["waiting"]) == (1, 2)
    assert found["oldest_seconds"] > 0
    assert sum("events wait for the agent" in line for line in site.errors().splitlines()) == 1
    site.agent.start()
    wait_for(lambda: site.noted() == ["ends 10"] and "running-job-11" in site.events())
    wait_for(lambda: site.status()[0] == 0)
    assert Counter(site.events())["failed-job-10"] == 1


def test_a_callback_that_hangs_holds_up_its_own_job_only(site: Site) -> None:
    site.options += ["--at-once", "2"]
    install(site, ends="complete-job-self", work="complete-work-self-1")
    go = site.folder / "go"
    code = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    (site.callbacks / "hangs.py").write_text(code)
    with (site.callbacks / "callbacks.conf").open("a") as conf:
        conf.write("hangs.py = complete-work-self-0 || failed-job-self\n")
    site.agent.start()
    site.start()
    for task in (0, 1):
        site.prolog(100, task, SLURM_ARRAY_TASK_COUNT=2)
    site.jobcomp(100, "COMPLETED", 0)
    site.jobcomp(100, "COMPLETED", 1)
    site.prolog(7)
    site.jobcomp(7, "COMPLETED")
    # Another task of the same job, and another job, do not wait.
    wait_for(lambda: sorted(site.noted()) == ["ends 7", "work 100"])
    go.touch()
    wait_for(lambda: "ends 100" in site.noted())
    # It hangs for as long as it may.
    go.unlink()
    site.stop()
    site.options += ["--time-limit", "0.5"]
    site.start()
    site.prolog(8)
    site.jobcomp(8, "FAILED")
    wait_for(lambda: len(site.told("callback")) == 5)
    hung = site.told("callback")[-1]
    assert (hung["owner"], hung["outcome"], hung["level"]) == (8, "timed-out", "ERROR")
    assert "0.5 s" in hung["reason"]


def test_a_callback_that_was_running_is_run_again_and_told_so(site: Site) -> None:
    code = (
        "import os, time\n"
        f"file = {str(site.notes)!r}\n"
        "open(file, 'a').write(os.environ.get('CALLBACK_AGENT_REPEAT', 'first') + chr(10))\n"
        f"while not os.path.exists({str(site.folder / 'go')!r}): time.sleep(0.01)\n"
    )
    (site.callbacks / "slow.py").write_text(code)
    (site.callbacks / "callbacks.conf").write_text("slow.py = complete-job-self\n")
    site.agent.start()
    site.start()
    site.prolog(7)
    site.jobcomp(7, "COMPLETED")
    wait_for(lambda: site.noted() == ["first"])
    site.stop(signal.SIGKILL)
    site.start()
    wait_for(lambda: site.noted() == ["first", "1"])
    # SIGTERM waits for what runs.
    assert site.daemon is not None
    site.daemon.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        site.daemon.wait(0.2)
    # Meanwhile it says how it is.
    since = time.time()
    wait_for(lambda: site.status()[1].get("time", 0) > since)
    assert [one["owner"] for one in site.status()[1]["callbacks_running"]] == [7]
    (site.folder / "go").touch()
    assert site.daemon.wait(60) == 0
    (ran,) = site.told("callback")
    assert (ran["repeat"], ran["outcome"], ran["owner"]) == (True, "succeeded", 7)
    site.start()
    wait_for(lambda: site.status()[1].get("counters", {}).get("repeats") == 1)
    assert site.noted() == ["first", "1"]


def test_what_squeue_shows(site: Site) -> None:
    """Waiting and held jobs, and ends that no hook told. What was there at the start is no news."""
    site.options += POLL
    site.queue([row(5, "RUNNING")])
    serve(site, ends="done-job-self")
    held = row(6, "PENDING", r="JobHeldUser", k="label=mine")
    site.queue([row(5, "RUNNING"), held, row(8, "PENDING", task="0-1")])
    wait_for(lambda: "blocked-job-6" in site.events() and "waiting-job-8" in site.events())
    site.queue(
        [row(5, "RUNNING"), row(6, "PENDING"), row(8, "RUNNING", task="0", own=9)],
        ended=[row(5, "TIMEOUT")],
    )
    wait_for(lambda: "waiting-job-6" in site.events() and "running-work-8-0" in site.events())
    site.queue(
        [row(6, "RUNNING")],
        ended=[row(5, "TIMEOUT"), row(8, "COMPLETED", task="0"), row(8, "FAILED", task="1")],
    )
    wait_for(lambda: "failed-job-8" in site.events() and "failed-job-5" in site.events())
    # Slurm has forgotten it.
    site.queue([])
    wait_for(lambda: "done-job-6" in site.events())
    assert Counter(site.events()) == Counter(
        [
            *("timeout-job-5", "failed-job-5", "submit-job-6", "blocked-job-6", "unblock-job-6"),
            *("waiting-job-6", "running-job-6", "done-job-6", "submit-job-8", "waiting-job-8"),
            *("running-job-8", "running-work-8-0", "complete-work-8-0", "failed-work-8-1"),
            "failed-job-8",
        ]
    )
    assert {one["job"].get("label") for one in site.told("event")} == {"wrap", "mine"}
    wait_for(lambda: len(site.noted()) == 3)


def test_without_a_completion_plugin_squeue_says_how_it_ended(site: Site) -> None:
    (site.bin / "down").touch()
    site.agent.start()
    site.start()
    wait_for(lambda: any("squeue" in fault for fault in site.status()[1]["faults"]))
    site.prolog(7)
    site.epilog(7)
    wait_for(lambda: len(site.told("event")) == 2)
    site.queue([], ended=[row(7, "CANCELLED")])
    (site.bin / "down").unlink()
    wait_for(lambda: "killed-job-7" in site.events())
    # Slurm knows nothing of it: the exit status decides.
    site.prolog(8)
    site.epilog(8, code=256)
    wait_for(lambda: "failed-job-8" in site.events())
    wait_for(lambda: site.status()[0] == 0)


def test_what_is_not_an_event_is_set_aside(site: Site) -> None:
    (site.spool / "x").write_text("y")
    site.call({"A": "1"})
    site.prolog(7)
    serve(site)
    wait_for(lambda: "running-job-7" in site.events())
    wait_for(lambda: site.status()[1].get("counters", {}).get("events_bad") == 2)
    assert len([*(site.spool / "bad").iterdir()]) == 2
    assert site.errors().count("is not an event") == 2
    code, found = site.status()
    assert (code, len(found["faults"])) == (1, 1)
    assert found["faults"][0].startswith(f"2 files in {site.spool}/bad: no events")


def test_nodes_and_a_job_that_nobody_knows(site: Site) -> None:
    serve(site, host="assigned-host-self-node1")
    site.prolog(100, 3)
    site.call(script("prolog_slurmd", 104, SLURMD_NODENAME="node1"))
    site.call(script("epilog_slurmd", 999, SLURMD_NODENAME="node1"))
    wait_for(lambda: any("job 999" in one.get("message", "") for one in site.told("message")))
    wait_for(lambda: site.noted() == ["host 100"])
    assert site.events()[-1] == "assigned-host-100-node1"
    wait_for(lambda: not [*site.spool.iterdir()], "an empty spool")


def test_callbacks_run_as_another_user(site: Site) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can run as another user")
    # nobody may not enter the folder of a test's Python.
    site.options = ["--interpreter", "python=/usr/bin/python3"]
    (site.callbacks / "who.py").write_text(
        "import os\nprint(os.getuid(), os.getgid(), os.getgroups(), os.environ['USER'])\n"
        "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])\nos.stat('/root/x')"
    )
    (site.callbacks / "callbacks.conf").write_text("who.py = complete-job-self\n")
    site.agent.start()
    site.start()
    site.prolog(7)
    site.jobcomp(7, "COMPLETED")
    wait_for(lambda: site.told("callback"))
    (ran,) = site.told("callback")
    assert ran["output"].startswith("65534 65534 [65534] nobody\n0000000000000000\n")
    assert "PermissionError" in ran["output"]


def test_one_daemon_has_the_state_and_metrics_end_with_it(site: Site) -> None:
    metrics = site.folder / "slurm.prom"
    # What another program wrote is not replaced.
    foreign = "# HELP callback_agent_build_info x\n"
    metrics.write_text(foreign)
    site.state.mkdir()
    (site.state / "status.json").write_text('{"mine": 1}')
    site.options += ["--metrics-file", str(metrics)]
    serve(site, ends="complete-job-self")

    def said(text: str) -> bool:
        return any(text in one["message"] for one in site.told("message"))

    wait_for(lambda: said("slurm.prom cannot be written: it is a file of another program"))
    assert metrics.read_text() == foreign
    assert said("status.json cannot be written: it is a file of another program")
    assert said("name another with --state, or remove this one")
    assert (site.state / "status.json").read_text() == '{"mine": 1}'
    (site.state / "status.json").unlink()
    metrics.unlink()
    wait_for(lambda: said("slurm.prom is written again"))
    first = site.daemon
    with pytest.raises(AssertionError, match="in use by another daemon"):
        site.start()
    assert site.daemon is not None
    assert site.daemon.wait(60) == 4
    site.daemon = first
    site.prolog(7)
    site.jobcomp(7, "COMPLETED")

    def counted() -> bool:
        text = metrics.read_text()
        return (
            'callback_agent_slurm_callbacks_total{outcome="succeeded"} 1\n' in text
            and 'callback_agent_slurm_well{what="agent"} 1\n' in text
            and "callback_agent_slurm_events_total 2\n" in text
        )

    wait_for(counted)
    assert site.stop() == 0
    assert not metrics.exists()


def test_kills_while_events_come(site: Site) -> None:
    """SIGKILL again and again: each event once, each callback once but for marked repeats."""
    serve(site, work="complete-work-self-*", ends="complete-job-self")
    count = 12
    for task in range(count):
        site.prolog(100, task, SLURM_ARRAY_TASK_COUNT=count)
        if task % 4 == 3:
            site.stop(signal.SIGKILL)
            site.start()
        site.jobcomp(100, "COMPLETED", task)
        site.epilog(100, task, SLURM_ARRAY_TASK_COUNT=count)
    wait_for(lambda: "ends 100" in site.noted() and not list(site.spool.glob("*.event")))
    assert site.stop() == 0
    ran = Counter(site.noted())
    # Each start says how many: one that is killed again has no record of its own.
    repeats = site.status()[1]["counters"].get("repeats", 0)
    assert set(ran) == {"work 100", "ends 100"}
    assert count <= ran["work 100"] <= count + repeats
    assert Counter(e for e in site.events() if "host" not in e).most_common(1)[0][1] == 1
