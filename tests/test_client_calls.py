"""The client and a real agent: many threads, restarts, many events, code, and types."""

from __future__ import annotations

import ast
import collections
import datetime
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest

from agent import aio, client
from agent.client import AgentError, BadArgument, Client, NoAgent, Refused, TimedOut
from agent.mirror import Mirror
from agent.rpc import messages
from support.agents import DEADLINE, Agent, running, wait_for, write

CONF = "".join(f"n{n}.py = failed-job-label{n}\n" for n in range(8))
CONF += "both.py = complete-job-self && complete-job-parent\n"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("client")
    code = {f"n{n}_py": f"number = {n}\n" for n in range(8)}
    write(folder / "callback", CONF, both_py="# \u00e9\n", **code)
    with running(folder, folder / "callback") as agent:
        yield agent


@pytest.fixture
def one(agent: Agent) -> Iterator[Client]:
    with Client(str(agent.pipe), timeout=DEADLINE) as one:
        yield one


def files(answer: Any) -> list[str]:
    return [c["file"] for c in answer["callbacks"]]


def in_threads(count: int, act: Any) -> list[BaseException]:
    """Run `act(number)` in so many threads at once; what they raised."""
    raised: list[BaseException] = []
    together = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            together.wait(DEADLINE)
            act(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return raised


def test_threads_share_one_client_and_get_their_own_answers(one: Client) -> None:
    def ask(number: int) -> None:
        for _ in range(100):
            assert files(one.lookup(f"failed-job-label{number}")) == [f"n{number}.py"]

    assert in_threads(8, ask) == []


def test_a_restart_is_not_seen_by_threads_that_ask(tmp_path: Path) -> None:
    write(tmp_path / "callback", "a.py = failed-job-self\n", a_py="0\n")
    asked = collections.Counter[int]()
    over = threading.Event()
    with running(tmp_path, tmp_path / "callback") as agent:
        shared = Client(str(agent.pipe), timeout=DEADLINE, restart=DEADLINE)

        def ask(number: int) -> None:
            while not over.is_set():
                own = Client(str(agent.pipe), timeout=DEADLINE, restart=DEADLINE)
                for one in (shared, own):
                    assert files(one.lookup("failed-job-self")) == ["a.py"]
                own.close()
                asked[number] += 1

        def restart() -> None:
            for _ in range(2):
                asked.clear()
                wait_for(lambda: all(asked[n] for n in range(4)))
                agent.stop()
                agent.start()
            over.set()

        raised = in_threads(5, lambda n: restart() if n == 4 else ask(n))
        over.set()
        assert raised == []


def test_who_waits_for_no_restart_hears_at_once(tmp_path: Path) -> None:
    with pytest.raises(NoAgent, match="no pipe"):
        Client(str(tmp_path / "pipe"), timeout=math.inf, restart=0).status()


def test_no_agent_is_not_reported_as_a_slow_one_by_a_process_that_sleeps_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "pipe")
    sleep, sleep_of_anyio = time.sleep, anyio.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(10 * seconds))
    monkeypatch.setattr(anyio, "sleep", lambda seconds: sleep_of_anyio(10 * seconds))

    async def ask() -> Any:
        async with aio.Client(path, timeout=0.5) as agent:
            return await agent.status()

    for call in (Client(path, timeout=0.5).status, lambda: anyio.run(ask)):
        with pytest.raises(NoAgent, match="there is no pipe"):
            call()


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "wrong",
    [math.nan, math.inf, datetime.date(2026, 1, 2), {1, 2}, b"x", object(), LOOP, 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_is_an_error_of_the_agent(one: Client, wrong: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: one.lookup(wrong),
        lambda: one.lookup("done-job-self", owner=wrong),
        lambda: one.lookup("done-job-self", owner={"id": wrong}),
        lambda: one.lookup("done-job-self", occurred=wrong),
        lambda: one.lookup("done-job-self", pending=[wrong]),
        lambda: one.lookup("done-job-self", owners=[{"id": 1}, wrong]),
        lambda: one.lookup_many(["done-job-self", wrong]),
        lambda: one.explain(wrong),
        lambda: one.history(wrong),
        lambda: one.code([wrong]),
        lambda: one.call("lookup", {"event": wrong}),
        lambda: one.status(timeout=wrong if wrong is not math.inf else math.nan),
    ]
    for call in calls:
        with pytest.raises(AgentError):
            call()
    assert files(one.lookup("failed-job-label3")) == ["n3.py"]


def test_deep_arguments_are_an_error_too(one: Client) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(BadArgument, match="lookup cannot be sent"):
        one.lookup(deep)


def test_text_that_is_not_unicode_is_an_error_before_anything_is_sent(one: Client) -> None:
    label = os.fsdecode(b"m\xe4rz")
    with pytest.raises(BadArgument, match="surrogates not allowed"):
        one.lookup({"name": "failed", "type": "job", "job": {"label": label}})
    with pytest.raises(BadArgument):
        one.lookup_many(["failed-job-label1", f"failed-job-{label}"])
    assert files(one.lookup("failed-job-label1", owner={"label": "\U0001f600 \\ud800"})) == [
        "n1.py"
    ]


def test_other_mappings_and_sequences_are_sent(one: Client) -> None:
    job = types.MappingProxyType({"id": 4})
    event = types.MappingProxyType({"name": "complete", "type": "job", "job": job})
    owner: Any = collections.ChainMap({"id": 5}, {"pid": 4})
    before: Any = collections.deque(["complete-job-self"])
    assert "both.py" in files(one.lookup(cast(Any, event), owner=owner, occurred=before))


def test_an_error_can_be_raised_in_another_process(one: Client) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        asked = processes.submit(_look_up, one.path, "x")
    with pytest.raises(Refused, match="without a type") as raised:
        asked.result(DEADLINE)
    refused = raised.value
    assert (refused.code, refused.index, refused.data["column"]) == (-32602, 0, 2)


def _look_up(path: str, event: str) -> None:
    Client(path, DEADLINE).lookup(event)


@pytest.mark.parametrize("wrong", ["failed-job-self", {"name": "failed"}, None, b"x"])
def test_one_event_is_not_a_list_of_events(one: Client, wrong: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: one.lookup_many(wrong),
        lambda: Mirror(one.path).lookup_many(wrong),
        lambda: anyio.run(aio.Client(one.path).lookup_many, wrong),
    ]
    for call in calls:
        with pytest.raises(BadArgument, match="expected a list of events"):
            call()
    assert one.lookup_many(()) == []


@pytest.mark.parametrize("wrong", [None, "3", math.nan])
def test_seconds_that_are_not_a_number_are_an_error(agent: Agent, wrong: Any) -> None:
    for name in ("timeout", "restart"):
        one = Client(str(agent.pipe), **{name: wrong})
        for call in (one.status, lambda one=one: one.subscribe(heartbeat=1)):
            with pytest.raises(BadArgument, match=f"{name} is .*: expected seconds, as a number"):
                call()


def test_each_call_has_its_own_time_limit(agent: Agent) -> None:
    with Client(str(agent.pipe), timeout=0.0) as one:
        with pytest.raises(TimedOut, match="within 0 s"):
            one.status()
        assert one.status(timeout=DEADLINE)["state"] == "ok"
        assert files(one.lookup("failed-job-label1", timeout=DEADLINE)) == ["n1.py"]


def test_many_events_at_once_are_answered_as_one_by_one(one: Client) -> None:
    events = [f"failed-job-label{n % 11}" for n in range(5000)]
    assert one.lookup_many([]) == []
    many = one.lookup_many(events)
    single = {event: one.lookup(event) for event in set(events)}
    assert many == [single[event] for event in events]
    assert one.lookup_many(events[:3], code=True) == [one.lookup(e, code=True) for e in events[:3]]


def test_many_events_of_which_some_are_refused(one: Client) -> None:
    events = ["failed-job-label1"] * 3000
    events[1234] = "failed-jbo-self"
    events[2000] = "x"
    with pytest.raises(Refused) as refused:
        one.lookup_many(events)
    assert (refused.value.index, refused.value.data["column"]) == (1234, 8)
    # The answers to the others are not taken for the next ones.
    assert files(one.lookup("failed-job-label2")) == ["n2.py"]


def test_owners_and_what_is_pending(one: Client) -> None:
    done: client.EventObject = {"name": "complete", "type": "job", "job": {"id": 4}}
    first = one.lookup(done, owner={"id": 5, "pid": 4})
    assert [p["missing"] for p in first["partial"]] == ["complete-job-self"]
    waits = [
        client.Pending(path=p["path"], trigger=p["trigger"], missing=p["missing"])
        for p in first["partial"]
    ]
    own: client.EventObject = {"name": "complete", "type": "job", "job": {"id": 5}}
    assert files(one.lookup(own, owner={"id": 5, "pid": 4}, pending=waits)) == ["both.py"]
    several = one.lookup(own, owners=[{"id": 5, "pid": 4, "pending": waits}, {"id": 6}])
    assert several["owners"] == [{"fires": [0], "partial": []}, {"fires": [], "partial": []}]


def test_code_is_sent_once_and_is_never_older_than_the_answer(tmp_path: Path) -> None:
    directory = write(tmp_path / "callback", "a.py = failed-job-self\nb.pl = failed-job-*\n")
    texts = {"a.py": b"one = 1\n", "b.pl": "# \u00e9\n".encode("latin-1")}
    for name, text in texts.items():
        (directory / name).write_bytes(text)
    with running(tmp_path, directory) as agent, Client(str(agent.pipe), DEADLINE) as one:
        sent = []
        ask = client._Connection.ask

        def watched(self: Any, lines: list[bytes], deadline: float) -> Any:
            sent.extend(lines)
            return ask(self, lines, deadline)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client._Connection, "ask", watched)
            wholes = [one.lookup("failed-job-self", code=True) for _ in range(3)]
            assert [b'"code":true' in line for line in sent] == [True, False, False]
            (directory / "a.py").write_bytes(b"two = 2\n")
            one.reload()
            sent.clear()
            newer = one.lookup("failed-job-self", code=True)
            assert [msgspec.json.decode(line)["method"] for line in sent] == ["lookup", "code"]
        assert wholes[0] == wholes[1] == wholes[2]
        assert [c.get("code") for c in newer["callbacks"]] == ["two = 2\n", None]
        with Client(str(agent.pipe), DEADLINE) as fresh:
            assert fresh.lookup("failed-job-self", code=True) == newer
            assert one.list(code=True) == fresh.list(code=True)
            assert one.explain("failed-job-self", code=True) == fresh.explain(
                "failed-job-self", code=True
            )


# Types ------------------------------------------------------------------------------------------

#: The client's types, and those that the agent sends or takes.
TYPES: dict[str, type[msgspec.Struct]] = {
    "Job": messages.Job,
    "Pending": messages.Pending,
    "Owner": messages.Owner,
    "EventObject": messages.EventObject,
    "Callback": messages.Callback,
    "PartialCallback": messages.PartialCallback,
    "ExplainedCallback": messages.ExplainedCallback,
    "OwnerPartial": messages.OwnerPartial,
    "OwnerResult": messages.OwnerResult,
    "ExplainResult": messages.ExplainResult,
    "ListResult": messages.ListResult,
    "Content": messages.Content,
    "CodeResult": messages.CodeResult,
    "Since": messages.Since,
}


def typed() -> dict[str, set[str]]:
    """The members of the client's types. Type checkers alone see them: they are read as text."""
    found: dict[str, set[str]] = {"TypedDict": set()}
    tree = ast.parse(Path(client.__file__).read_text())
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or not node.bases:
            continue
        bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        if not all(base in found for base in bases):
            continue
        own = {
            part.target.id
            for part in node.body
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
        }
        found[node.name] = own.union(*(found[base] for base in bases))
    return found


def test_the_types_have_the_members_that_the_agent_sends() -> None:
    found = typed()
    for name, struct in TYPES.items():
        assert found[name] == {f.encode_name for f in msgspec.structs.fields(struct)}, name
    lookup = {f.encode_name for f in msgspec.structs.fields(messages.LookupResult)}
    assert found["LookupResult"] == lookup - {"owners"}
    assert found["OwnersResult"] == lookup - {"partial"}
    assert set(TYPES) | {"LookupResult", "OwnersResult", "TypedDict"} >= {
        name for name in found if not name.startswith("_")
    }


PROGRAM = """
from agent.client import Client

with Client("/run/pipe") as agent:
    answer = agent.lookup("failed-job-self")
    print(answer["callback"])
    print(answer["callbacks"][0]["enable"])
    print(answer["callbacks"][0]["line"] + "x")
    agent.lookup("failed-job-self", owner={"ids": 4})
    agent.lookup({"name": "failed", "kind": "job", "job": {}})
    many = agent.lookup("failed-job-self", owners=[{"id": 4}])
    print(many["partial"])
    records = agent.subscribe(since={"instance": "x"})
    records = agent.subscribe(heartbeat="5")
    print(records.position["sequence"])
    records = agent.subscribe(since=records.position, heartbeat=5)
    print(records.digest + records.next(timeout=1)["digest"])
"""


def test_a_type_checker_finds_mistakes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert wrong == {6, 7, 8, 9, 10, 12, 13, 14, 15}, done.stdout
