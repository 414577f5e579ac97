"""The daemon with a real agent and the real hook; the test plays Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.agents import wait_for
from support.slurm_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    try:
        yield site
    finally:
        site.close()


def serve(site: Site, **triggers: str) -> Site:
    """Serve callbacks that note their name, by trigger."""
    for name, _ in triggers.items():
        (site.callbacks / f"{name}.py").write_text(site.note(name))
    conf = "".join(f"{name}.py = {trigger}\n" for name, trigger in triggers.items())
    (site.callbacks / "callbacks.conf").write_text(conf)
    site.agent.start()
    return site.start()


def test_an_array_with_a_failing_task(site: Site) -> None:
    serve(
        site,
        work="complete-work-self-*",
        bad="failed-work-self-1",
        all="failed-job-self",
        runs="running-job-self",
    )
    for task in (0, 1):
        site.prolog(100, task, SLURM_ARRAY_TASK_COUNT=2)
    # In either order.
    site.epilog(100, 0, SLURM_ARRAY_TASK_COUNT=2)
    site.jobcomp(100, "COMPLETED", 0)
    site.jobcomp(100, "FAILED", 1)
    site.epilog(100, 1, 768, SLURM_ARRAY_TASK_COUNT=2)
    wait_for(lambda: len(site.noted()) == 4 and len(site.told("event")) == 6)
    assert sorted(site.noted()) == ["all 100", "bad 100", "runs 100", "work 100"]
    assert site.noted()[0] == "runs 100"
    assert site.noted()[-1] == "all 100"
    assert site.events() == [
        *("submit-job-100", "running-job-100", "running-work-100-0", "running-host-100-node1"),
        *("running-work-100-1", "running-host-100-node1"),
        *("complete-work-100-0", "complete-host-100-node1"),
        *("failed-work-100-1", "failed-host-100-node1", "failed-job-100"),
    ]
    assert list(site.spool.iterdir()) == []
    assert site.stop() == 0
