"""`lookups` of `status`, and the method `metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from agent.core.index import Index, ServedDirectory
from agent.rpc import results
from agent.rpc.messages import LookupParams
from agent.server.lookups import Lookups
from agent.server.matches import Matches
from agent.server.offload import Effort, OverLimit
from agent.timing import PipeLimits
from support import metrics
from support.agents import Agent, write
from support.indexes import served
from support.requests import call, exchange, line
from support.sites import Site

CONF = "a.py = done-job-self\nb.py = done-job-*\nq.qcb = done-job-self && done-job-parent\n"
A, B, Q = ("a.py", "done-job-self"), ("b.py", "done-job-*"), ("q.qcb", CONF.split(" = ")[-1][:-1])


@pytest.fixture
def counted(site: Site) -> Site:
    site.serve(CONF, a_py="0\n", b_py="0\n", q_qcb="fail-self\n")
    return site


def total(agent: Agent) -> int:
    counts = agent.status()["lookups"]
    assert counts["per_second"] >= 0
    number: int = counts["total"]
    return number


# Each way to ask, as a function of a number: the bytes, how many lookups that is, and what matches.
OWNERS = [{"id": 7}, {"id": 8}, {"id": 9, "pid": 7}]
WAYS: list[tuple[bytes, int, Counter[tuple[str, str]]]] = [
    (call("lookup", event="done-job-self"), 1, Counter([A, B])),
    (call("lookup", event="done-job-self") * 3, 3, Counter([A, B] * 3)),
    (call("lookup", event="done-job-7") * 200, 200, Counter([B] * 200)),
    (line([json.loads(call("lookup", event="done-job-self"))] * 5), 5, Counter([A, B] * 5)),
    (
        call("lookup", event={"name": "done", "type": "job", "job": {"id": 7}}, owner={"id": 7}),
        1,
        Counter([A, B]),
    ),
    (call("lookup", event="done-job-self", occurred=["done-job-parent"]), 1, Counter([A, B, Q])),
    (
        call("lookup", event="done-job-self", occurred=["done-job-parent"] * 40),
        1,
        Counter([A, B, Q]),
    ),
    (
        call(
            "lookup",
            event={"name": "done", "type": "job", "job": {"id": 7}},
            owners=OWNERS,
        ),
        1,
        Counter([A, B, B, B]),
    ),
    (line({"jsonrpc": "2.0", "method": "lookup", "params": {"event": "x-job-self"}}), 1, Counter()),
    (call("lookup", event="no event"), 0, Counter()),
    (call("lookup", event="done-job-7") + call("lookup", event="no event"), 1, Counter([B])),
    (call("lookup", events="x") + call("explain", event="done-job-self") + b"]\n", 0, Counter()),
]


def test_every_way_to_ask_counts_each_lookup_once(counted: Site) -> None:
    """One that is refused does not count, nor does `explain`."""
    agent = counted.agent
    before, matched = total(agent), metrics.matches(metrics.of(agent))
    assert matched == {A: 0, B: 0, Q: 0}
    for number, (sent, lookups, found) in enumerate(WAYS):
        exchange(agent, sent)
        assert (number, total(agent) - before) == (number, lookups)
        before = total(agent)
        now = metrics.of(agent)
        assert (number, {k: v - matched[k] for k, v in metrics.matches(now).items()}) == (
            number, {one: found[one] for one in (A, B, Q)},
        )  # fmt: skip
        matched = metrics.matches(now)
        assert metrics.value(now, "lookups_total") == before


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(WAYS) - 1), max_size=8))
def test_any_sequence_of_them_counts_right(counted: Site, ways: list[int]) -> None:
    agent = counted.agent
    before, matched = total(agent), Counter(metrics.matches(metrics.of(agent)))
    exchange(agent, b"".join(WAYS[way][0] for way in ways))
    assert total(agent) - before == sum(WAYS[way][1] for way in ways)
    expected = sum((WAYS[way][2] for way in ways), Counter[tuple[str, str]]())
    matched.update(expected)
    assert metrics.matches(metrics.of(agent)) == matched


def test_an_edit_loses_no_count_and_what_is_removed_is_dropped(counted: Site) -> None:
    agent = counted.agent
    began = time.time()
    before = total(agent)
    for _ in range(3):
        agent.lookup("done-job-self")
    counted.edit(CONF.replace("q.qcb", "# q.qcb") + "a.py = x-job-self\n")
    new = ("a.py", "x-job-self")
    assert total(agent) - before == 3
    found = metrics.of(agent)
    assert metrics.matches(found) == {A: 3, B: 3, new: 0}
    path = str(counted.directory / "a.py")
    labels = {"path": path, "trigger": "done-job-self"}
    last = metrics.value(found, "callback_last_match_timestamp_seconds", **labels)
    since = metrics.value(found, "callback_counted_since_timestamp_seconds", **labels)
    assert since is not None
    assert last is not None
    assert began - 120 < since <= last + 1e-3 <= time.time() + 1
    never = {"path": path, "trigger": "x-job-self"}
    assert metrics.value(found, "callback_last_match_timestamp_seconds", **never) is None
    assert metrics.value(found, "callback_counted_since_timestamp_seconds", **never) is not None


def test_what_stands_wrong_is_measured(counted: Site) -> None:
    agent = counted.agent
    found = metrics.of(agent)
    version = agent.status()["version"]
    builds = [dict(labels) for name, labels in found if name == "callback_agent_build_info"]
    assert [build["version"] for build in builds] == [version]
    assert metrics.value(found, "state", state="ok") == 1
    assert metrics.value(found, "held_directories", reason="error") == 0
    assert metrics.value(found, "callbacks", enabled="true") == 3
    assert metrics.value(found, "callbacks", enabled="false") == 0
    assert metrics.value(found, "generation") == agent.status()["generation"]
    changed = metrics.value(found, "last_change_timestamp_seconds")
    reloads = metrics.value(found, "reloads_total", event="held")
    durations = metrics.value(found, "reload_duration_seconds_count")
    assert changed is not None
    assert reloads is not None
    assert durations is not None
    counted.edit(CONF + "nofile.py = done-job-self\n")
    found = metrics.of(agent)
    assert metrics.value(found, "state", state="ok") == 0
    assert metrics.value(found, "state", state="degraded") == 1
    assert metrics.value(found, "held_directories", reason="error") == 1
    assert metrics.value(found, "held_directories", reason="fault") == 0
    codes = {f["code"] for f in agent.history()[-1]["diagnostics"] if f["severity"] == "error"}
    for code in codes:
        assert metrics.value(found, "findings", severity="error", code=code) == 1
    assert metrics.value(found, "reloads_total", event="held") == reloads + 1
    assert metrics.value(found, "last_change_timestamp_seconds") == changed
    counted.edit(CONF + "a.py = x-job-self\n")
    found = metrics.of(agent)
    assert (metrics.value(found, "last_change_timestamp_seconds") or 0) > changed
    assert (metrics.value(found, "reload_duration_seconds_count") or 0) >= durations + 2


def test_durations_of_lookups_are_measured(counted: Site) -> None:
    agent = counted.agent
    exchange(agent, call("lookup", event="done-job-7") * 400)
    with agent.connect() as one, one.makefile("rb") as answers:
        for _ in range(40):
            one.sendall(call("lookup", event="done-job-7"))
            answers.readline()
    found = metrics.of(agent)
    number = metrics.value(found, "lookup_duration_seconds_count")
    assert number is not None
    assert number > 0
    assert metrics.value(found, "lookup_duration_seconds_bucket", le="+Inf") == number
    assert (metrics.value(found, "lookup_duration_seconds_sum") or 0) > 0


def test_counts_are_there_after_a_restart(tmp_path: Path) -> None:
    """Those of callbacks that are served."""
    directory = write(tmp_path / "cb", CONF, a_py="0\n", b_py="0\n", q_qcb="fail-self\n")
    agent = Agent(tmp_path, directory)
    with life(agent):
        agent.lookup("done-job-self")
        first = metrics.of(agent)
    write(directory, CONF.replace("b.py", "# b.py"))
    with life(agent):
        agent.lookup("done-job-self")
        found = metrics.of(agent)
        assert metrics.matches(found) == {A: 2, Q: 0}
        for name in ("a.py", "q.qcb"):
            (key,) = {
                k for k in found if k[0].endswith("since_timestamp_seconds") and name in str(k)
            }
            assert found[key] == first[key]
        assert agent.status()["lookups"]["total"] == 1


@contextlib.contextmanager
def life(agent: Agent) -> Iterator[None]:
    agent.start()
    try:
        yield
    finally:
        assert agent.stop() == 0


# In this process ---------------------------------------------------------------------------------

NAMES = ["done-job-*", "done-job-x", "*-work-self-*", "submit-job-self && done-job-x"]
EVENTS = ["done-job-x", "done-job-y", "done-work-self-1", "submit-job-self", "x-job-self"]
indexes = st.lists(st.sampled_from(NAMES), unique=True, max_size=4)
steps = st.one_of(
    st.sampled_from(EVENTS), indexes, st.sampled_from(["settle", "total"]),
    st.tuples(st.just("offload"), st.sampled_from(EVENTS)),
)  # fmt: skip


@given(indexes, st.lists(steps, max_size=25))
def test_no_count_is_lost_where_the_index_is_replaced(first: list[str], given: list[Any]) -> None:
    """Nor where a lookup ends in a thread after its index was replaced."""
    expected: Counter[tuple[str, str]] = Counter()
    made = 0

    def index_of(triggers: list[str]) -> Index:
        return Index.of(1, [served(triggers)])

    async def run() -> None:
        nonlocal made
        index = index_of(first)
        lookups = Lookups(index, Matches())
        for step in given:
            if isinstance(step, list):
                index = index_of(step)
                lookups.use(index)
            elif step == "settle":
                await lookups.collect()
                assert lookups.collected == made
            elif step == "total":
                assert lookups.total == made
            else:
                event = step if isinstance(step, str) else step[1]
                params = LookupParams(event)
                found = json.loads(results.lookup(index, params))["callbacks"]
                expected.update((c["file"], c["trigger"]) for c in found)
                made += 1
                if isinstance(step, str):
                    lookups.cache.result(params)
                else:
                    results.lookup(
                        index, params, done=lambda counted: lookups.offloaded(0.0, counted)
                    )
        await lookups.collect()
        assert lookups.total == lookups.collected == made
        found = lookups.matches._counts
        assert {k[1:]: c.matches for k, c in found.items()} == expected
        kept = {(c.registration.file, c.registration.text) for c in index.callbacks()}
        list(lookups.matches.rows(index, 0.0))
        lookups.matches.forget(lookups.matches.unknown(index))
        assert {k[1:] for k in lookups.matches._counts} == kept

    asyncio.run(run())


@pytest.mark.parametrize("openmetrics", [True, False])
def test_names_of_any_kind_are_the_same_when_they_are_read(openmetrics: bool) -> None:
    odd = 'a "b" \\c\\n {d="e"} é\u202e\x1b'
    triggers = [f"done-job-{n}" for n in range(600)]
    index = Index.of(1, [served(triggers, f"/{odd}\n"), ServedDirectory("/empty")])
    text = b"".join(metrics.measured(index).text(3, openmetrics)).decode()
    parse = openmetrics_parser if openmetrics else text_parser
    families = list(parse.text_string_to_metric_families(text))
    assert text.count("# TYPE callback_agent_callback_matches") == 1
    assert text.endswith("# EOF\n") == openmetrics
    found = metrics.samples(families)
    paths = {dict(labels)["path"] for name, labels in found if "matches" in name}
    assert paths == {f"/{odd}\n/{n}.py" for n in range(1, 601)}
    assert len(metrics.matches(found)) == 600
    assert metrics.value(found, "clients") == 3
    kinds = {family.name: family.type for family in families}
    # The older format has no such type.
    assert kinds.pop("callback_agent_build", "info") == "info"
    assert set(kinds.values()) == {"gauge", "counter", "histogram"}


def test_a_text_that_is_too_long_or_that_nobody_waits_for_ends() -> None:
    index = Index.of(1, [served([f"done-job-{n}" for n in range(600)])])
    made = metrics.measured(index)
    effort = Effort(lambda: False, PipeLimits(max_result_bytes=40_000))
    with pytest.raises(OverLimit, match="bytes"):
        results.text(made.text(0), effort.spend)
    whole = results.text(made.text(0), results.no_limit)
    assert json.loads(whole)["text"].endswith("# EOF\n")


def test_many_owners_count_one_lookup_and_a_match_for_each_that_fires() -> None:
    index = Index.of(1, [served(["done-job-self", "done-job-*"])])
    event: Any = {"name": "done", "type": "job", "job": {"id": 7}}
    params = msgspec.convert(
        {"event": event, "owners": [{"id": 7}, {"id": 8}, {"id": 7}]}, LookupParams
    )
    counted: list[Any] = []
    results.lookup(index, params, done=counted.append)
    (found,) = counted
    numbers: Counter[str] = Counter()
    for callbacks, number in found:
        numbers.update({c.registration.text: number for c in callbacks})
    assert numbers == {"done-job-self": 2, "done-job-*": 3}
