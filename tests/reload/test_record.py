"""The records of a real agent: log, history, generations."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from agent.rpc import messages
from agent.rpc.messages import Record
from support.agents import Agent, summary, wait_for, write
from support.requests import call
from support.sites import Site
from support.valid import check

ONE = "a.py = done-job-self\n"


def test_the_log_as_json_is_the_records_one_a_line(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    site.edit("nonsense\n")
    site.edit(ONE)
    records = site.agent.history()
    assert site.agent.records()[-len(records) :] == records
    for record in records:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
        assert record["duration_ms"] >= 0
    assert [r["time"] for r in records] == sorted(r["time"] for r in records)


def test_history_gives_the_newest_last_and_no_more_than_asked_for(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    site.edit(ONE, a_py="1\n")
    site.edit(ONE, a_py="2\n")
    everything = site.agent.history()
    for limit in (0, 1, 2, len(everything), len(everything) + 5):
        records = site.agent.call("history", {"limit": limit})["records"]
        assert records == (everything[-limit:] if limit else [])
    assert summary(everything[-1]) == site.agent.status()["last_reload"]


def test_a_finding_about_a_whole_file_has_no_line(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    (site.directory / "callbacks.conf").unlink()
    (finding,) = site.reload()["diagnostics"]
    assert (finding["line"], finding["column"]) == (None, None)


def test_generations_count_only_what_was_accepted(site: Site) -> None:
    site.serve(ONE, a_py="0\n")
    first = site.agent.status()["generation"]
    site.edit(ONE, a_py="1\n")
    site.edit("nonsense\n")
    site.edit("more nonsense\n")
    site.edit(ONE)
    site.edit(ONE, a_py="2\n")
    assert [r["generation"] - first for r in site.records()] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_with_0_a_last_record_and_no_socket(tmp_path: Path, number: int) -> None:
    directory = write(tmp_path / "cb", ONE, a_py="0\n")
    agent = Agent(tmp_path, directory).start()
    try:
        with agent.connect() as one, one.makefile("rb") as lines:
            one.sendall(b'{"jsonrpc":"2.0","id":1,"method":"subscribe"}\n')
            assert b'"result"' in lines.readline()
            digest = agent.status()["digest"]
            assert agent.stop(number) == 0
            # Subscribers get the record, then the connection ends.
            assert b'"event":"stopped"' in lines.read().splitlines()[-1]
    finally:
        agent.stop()
    assert not agent.pipe.exists()
    record = agent.records()[-1]
    check(Record, record)
    assert (record["event"], record["digest"], record["changes"]) == ("stopped", digest, [])
    assert (record["generation"], record["callbacks"]) == (1, 1)


def test_a_record_that_is_being_made_when_the_agent_is_stopped_is_in_the_log(
    tmp_path: Path,
) -> None:
    """What is served has its record. Here the second one takes until the pipe is removed, which is
    the first thing of a stop."""
    directory = write(tmp_path / "cb", "a.pl = done-job-self\n", a_pl="1\n")
    agent = Agent(tmp_path, directory)
    program = (
        "import os, time\n"
        "from agent.reload.record import Recorder\n"
        "real = Recorder.make\n"
        "def make(self, *given):\n"
        "    while self.sequence and os.path.exists(PIPE): time.sleep(0.001)\n"
        "    return real(self, *given)\n"
        "Recorder.make = make\n"
        "from agent.cli import main; main()"
    )
    agent.program = ["-c", f"PIPE = {str(agent.pipe)!r}\n{program}"]
    agent.environ["PYTHONPATH"] = str(Path(messages.__file__).parents[2])
    agent.start()
    try:
        with agent.connect() as one, one.makefile("rb") as lines:
            one.sendall(call("subscribe"))
            lines.readline()
            (directory / "a.pl").write_text("2\n")
            wait_for(lambda: agent.status()["generation"] == 2, "the edit")
            assert agent.stop() == 0
            told = [json.loads(line)["params"] for line in lines]
    finally:
        agent.stop()
    assert [record["event"] for record in told] == ["reloaded", "stopped"]
    assert agent.records()[1:] == told
