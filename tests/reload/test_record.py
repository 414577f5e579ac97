"""The records of a real agent: log, history, generations."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from agent.rpc.messages import Record
from support.agents import Agent, summary, write
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
