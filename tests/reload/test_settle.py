"""Directories that do not settle at once: links, writers, and checks that take long."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from agent.rpc.messages import StatusResult
from agent.timing import CheckLimits, Timing
from support.agents import Agent, running, wait_for, write
from support.records import found, held
from support.sites import Site, replace
from support.valid import check

ONE = "a.py = done-job-self\n"


@pytest.mark.parametrize("name", [".", "callbacks.conf", "a.py"])
def test_a_link_that_leads_nowhere_is_a_fault_and_what_was_served_stays(
    site: Site, name: str
) -> None:
    real = write(site.folder / "real", ONE, a_py="0\n")
    if name == ".":
        site.directory.symlink_to(real)
        target = real
    else:
        write(site.directory, ONE, a_py="0\n")
        target = real / name
        (site.directory / name).unlink()
        (site.directory / name).symlink_to(target)
    site.path_list(site.directory)
    assert site.served() == [("a.py", "done-job-self", "0\n")]
    site.seen()
    target.rename(site.folder / "away")
    record = site.reload()
    assert (record["event"], held(record)) == ("held", [("cb", "fault")])
    assert [s for s, _ in found(record)] == ["error"]
    assert site.served() == [("a.py", "done-job-self", "0\n")]
    assert site.agent.status()["state"] == "degraded"
    (site.folder / "away").rename(target)
    record = site.reload()
    assert (record["event"], record["held"], record["diagnostics"]) == ("restored", [], [])
    assert site.agent.status()["state"] == "ok"


def test_a_source_that_compiles_for_long_delays_nothing_else(tmp_path: Path) -> None:
    directory = write(tmp_path / "cb", ONE, a_py="x = 1\n")
    agent = Agent(tmp_path, directory).start()
    try:
        agent.reload()
        # Some 960 KB take Python more than a minute, if it is let.
        write(directory, ONE, a_py="def f():\n    pass\n" * 56_000)
        for _ in range(50):
            began = time.monotonic()
            assert agent.fires("done-job-self") == ["a.py"]
            assert time.monotonic() - began < 20
    finally:
        # Nor does it keep the agent from stopping.
        assert agent.stop() == 0
    assert agent.records()[-1]["event"] == "stopped"


def test_the_very_first_answer_is_whole(tmp_path: Path) -> None:
    """There is no answer before there is an index, and no status without a record."""
    conf = "".join(f"a.py = done-job-{number}\n" for number in range(2000))
    agent = Agent(tmp_path, write(tmp_path / "cb", conf, a_py="0\n"))
    process = agent.launch()
    try:
        one = wait_for(lambda: connected(agent))
        assert one is not None
        with one, one.makefile("rb") as answers:
            one.sendall(
                b'{"jsonrpc":"2.0","id":1,"method":"status"}\n{"jsonrpc":"2.0","id":2,"method":"list"}\n'
            )
            status = json.loads(answers.readline())["result"]
            check(StatusResult, status)
            assert (status["generation"], status["callbacks"]) == (1, 2000)
            assert status["last_reload"]["event"] == "started"
            assert len(json.loads(answers.readline())["result"]["callbacks"]) == 2000
    finally:
        assert process.poll() is None
        assert agent.stop() == 0


def connected(agent: Agent) -> socket.socket | None:
    try:
        return agent.connect()
    except OSError:
        return None


def test_a_directory_that_was_renamed_away_and_back_is_watched_as_before(tmp_path: Path) -> None:
    """watchfiles forgets the watch of what is renamed, and the directory is the same as before."""
    one = write(tmp_path / "one", "a.pl = x-job-1\n", a_pl="1\n")
    with running(tmp_path, one) as agent:
        for number in range(3):
            one.rename(tmp_path / "away")
            (tmp_path / "away").rename(one)
            agent.reload()
            (one / "callbacks.conf").write_text(f"a.pl = x{number}-job-1\n")
            # Before a scan would find it.
            wait_for(lambda n=number: agent.fires(f"x{n}-job-1"), deadline=25)  # type: ignore[misc]


def test_removal_does_not_wait_for_who_writes_another_file(tmp_path: Path) -> None:
    """A removal is an emergency stop: at once, whatever else happens in the directory."""
    conf = "a.pl = x-job-1\nb.pl = x-job-1\n"
    one = write(tmp_path / "one", conf, a_pl="1\n", b_pl="2\n")
    agent = Agent(tmp_path, one)
    # So long is a writer waited for that a removal which waits for him too cannot be missed.
    agent.use(Timing(writing=300))
    agent.start()
    try:
        with (one / "a.pl").open("a"):
            (one / "b.pl").unlink()
            wait_for(lambda: agent.fires("x-job-1") == ["a.pl"])
            (one / "callbacks.conf").unlink()
            wait_for(lambda: agent.fires("x-job-1") == [])
            assert {d["code"] for d in agent.reload()["diagnostics"]} == {"no-conf"}
            assert agent.fires("x-job-1") == [], "and it stays off"
    finally:
        agent.stop()


def test_removal_does_not_wait_for_the_check_of_another_source(tmp_path: Path) -> None:
    """A source whose check takes longer than this waits, and another callback that must stop."""
    one = write(tmp_path / "one", "a.py = x-job-1\nb.pl = x-job-1\n", a_py="1\n", b_pl="2\n")
    limits = CheckLimits(max_cpu=10_000, max_wait=10_000, budget=10_000)
    agent = Agent(tmp_path, one).use(Timing(checks=limits)).start()
    try:
        replace(one / "a.py", "def f():\n pass\n" * 200_000)
        (one / "b.pl").unlink()
        wait_for(lambda: agent.fires("x-job-1") == ["a.py"])
        assert agent.served()[0][2] == "1\n"
    finally:
        agent.stop()
