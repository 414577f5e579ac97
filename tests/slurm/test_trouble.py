"""What the daemon does when its surroundings fail, and what `slurm status` says to whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.slurm import status
from support.agents import wait_for
from support.slurm_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site", "a.py = complete-job-self\n", a_py="pass\n")
    (site.callbacks / "a.py").write_text(site.note("a"))
    site.agent.start()
    try:
        yield site
    finally:
        site.close()


def test_the_disk_of_the_state_is_full(site: Site) -> None:
    """Events wait in the spool until there is room. Nothing is lost, nothing comes twice."""
    site.state.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(site.state)]
    if subprocess.run(small, capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        site.start()
        site.prolog(7)
        wait_for(lambda: "running-job-7" in site.events())
        with (site.state / "other").open("wb", buffering=0) as other:
            while other.tell() < 512 << 10:
                try:
                    other.write(b"x" * 4096)
                except OSError:
                    break
        site.prolog(8, SLURM_JOB_COMMENT="label=" + "x" * 20_000)
        site.jobcomp(7, "COMPLETED")
        site.jobcomp(8, "COMPLETED")
        wait_for(lambda: "the database cannot be written" in site.errors())
        assert [*site.spool.glob("*.event")]
        (site.state / "other").unlink()
        wait_for(lambda: len(site.noted()) == 2)
        assert sorted(site.noted()) == ["a 7", "a 8"]
        assert [e for e in site.events() if "host" not in e] == [
            *("submit-job-7", "running-job-7", "submit-job-8", "running-job-8"),
            *("complete-job-7", "complete-job-8"),
        ]
        wait_for(lambda: site.status()[0] == 0)
        site.stop()
    finally:
        site.close()
        subprocess.run(["umount", site.state], check=True)


def test_the_log_cannot_be_written(site: Site) -> None:
    site.start()
    # After this the daemon writes nothing unasked, and no new log takes the place.
    wait_for(lambda: any("first look" in one["message"] for one in site.told("message")))
    site.log.unlink()
    site.log.mkdir()
    site.prolog(7)
    site.jobcomp(7, "COMPLETED")
    wait_for(lambda: site.noted() == ["a 7"])
    wait_for(lambda: "slurm.log cannot be written: Is a directory" in site.errors())
    site.log.rmdir()
    site.prolog(8)
    wait_for(lambda: "running-job-8" in site.events())
    assert site.errors().count("cannot be written") == 1


def test_the_spool_vanishes_and_comes_back(site: Site) -> None:
    site.start()
    site.spool.rename(site.folder / "away")
    wait_for(lambda: "spool: No such file or directory" in site.errors())
    site.prolog(6)
    (site.folder / "away").rename(site.spool)
    site.prolog(7)
    # Its watch follows the directory, and a scan finds what is in a new one.
    wait_for(lambda: "running-job-7" in site.events())
    assert "running-job-6" not in site.events()


def test_anybody_may_ask_how_it_is(site: Site) -> None:
    """Only those who may read the spool see what waits there now: others what the daemon said."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    site.start()
    wait_for(lambda: site.status()[0] == 0)
    folder = site.folder
    while folder != Path(tempfile.gettempdir()):
        folder.chmod(0o755)
        folder = folder.parent
    assert (site.state / "state.db").stat().st_mode & 0o777 == 0o600
    code = "import os, json; from agent.slurm import status;"
    code += "os.setgroups([]); os.setgid(65534); os.setuid(65534);"
    code += f"print(json.dumps(status.read({str(site.state)!r}, {str(site.spool)!r})))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    found = json.loads(said)
    assert (found["running"], found["faults"], found["waiting"]) == (True, [], 0)


def test_what_the_status_of_nothing_is(tmp_path: Path) -> None:
    found = status.read(str(tmp_path / "none"), str(tmp_path / "spool"))
    assert [fault.split(":")[0] for fault in found["faults"]] == [
        f"no daemon runs in {tmp_path}/none",
        "the spool cannot be used",
    ]
    assert next(iter(status.lines(found))) == "state: not ok"
    (tmp_path / "status.json").write_text("[]")
    assert "pid" not in status.read(str(tmp_path), str(tmp_path))


def test_the_status_for_a_person_and_for_prometheus() -> None:
    found = {
        "counters": {
            "events": 5,
            "events_bad": 1,
            "events_refused": 2,
            "callbacks_failed": 2,
            "repeats": 1,
        },
        "waiting": 3,
        "oldest_seconds": 7.25,
        "callbacks_waiting": 4,
        "callbacks_running": [{"path": "/farm/a.py", "owner": 7, "seconds": 3.2}],
        "jobs": 2,
        "living": 1,
        "trouble": {"agent": "down", "slurm": ""},
        "time": 12.5,
    }
    assert [*status.lines({**found, "faults": ["down"]})] == [
        "state: not ok",
        "fault: down",
        "events waiting: 3, the oldest for 7 s",
        "events handled: 5, 1 set aside, 2 refused by the agent",
        "callbacks: 2 failed (1 repeat)",
        "callbacks waiting: 4",
        "running: /farm/a.py for job 7, for 3 s",
        "jobs: 1 living, 2 known",
    ]
    families = text_string_to_metric_families(status.metrics(found).decode())
    values = {
        (sample.name.removeprefix("callback_agent_slurm_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert values == {
        ("events_total",): 5,
        ("events_bad_total",): 1,
        ("events_refused_total",): 2,
        ("callbacks_total", "failed"): 2,
        ("repeats_total",): 1,
        ("events_waiting",): 3,
        ("oldest_event_seconds",): 7.25,
        ("callbacks_waiting",): 4,
        ("callbacks_running",): 1,
        ("jobs",): 2,
        ("well", "agent"): 0,
        ("well", "slurm"): 1,
        ("timestamp_seconds",): 12.5,
    }
