"""What answers requests: what is loaded late, what is cut short, what is contained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core import index
from agent.rpc import jsonrpc, results
from agent.rpc.lookup_cache import MAX_BATCHED_RESULT, LookupCache, NotQuick
from agent.rpc.messages import INTERNAL_ERROR, METHODS, LookupParams
from agent.server import offload
from agent.timing import PipeLimits, Timing
from support.agents import Agent, running, wait_for, write
from support.indexes import served

CONF = "a.pl = done-job-self\n"


def patched(folder: Path, program: str, conf: str = CONF) -> Agent:
    """An agent in which something is different."""
    agent = Agent(folder, write(folder / "cb", conf, a_pl="#\n"))
    agent.program = ["-c", f"{program}\nfrom agent.cli import main; main()"]
    agent.environ["PYTHONPATH"] = str(Path(results.__file__).parents[2])
    return agent


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with running(tmp_path, write(tmp_path / "cb", CONF, a_pl="#\n")) as agent:
        yield agent


def exchange(agent: Agent, *lines: bytes) -> list[Any]:
    with agent.connect() as one, one.makefile("rb") as answers:
        one.sendall(b"".join(lines))
        return [json.loads(answers.readline()) for _ in lines]


def call(method: str, **params: Any) -> bytes:
    whole = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(whole).encode() + b"\n"


def test_nothing_is_imported_on_the_loop_while_requests_are_served(tmp_path: Path) -> None:
    """A finder that is asked for any module in the thread of the loop says so."""
    agent = patched(
        tmp_path,
        "import sys, threading, os\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        loop = threading.current_thread() is threading.main_thread()\n"
        "        if loop and serving: os.write(2, f'imported late: {name}\\n'.encode())\n"
        "serving = False\n"
        "import agent.server.listener\n"
        "real = agent.server.listener.Pipe.listen\n"
        "async def listen(*a):\n"
        "    global serving\n"
        "    await real(*a)\n"
        "    serving = True\n"
        "agent.server.listener.Pipe.listen = listen\n"
        "sys.meta_path.insert(0, Finder())",
    )
    agent.start()
    try:
        for line in (
            b"{\n",
            call("lookup", evnt=1),
            call("lookup", event="x"),
            call("nothing"),
            call("status"),
            call("rpc.discover"),
            call("list"),
            call("explain", event="done-job-self"),
            call("reload"),
        ):
            exchange(agent, line)
        assert "imported late" not in agent.errors.read_text()
    finally:
        agent.stop()


def test_every_method_has_a_handler(agent: Agent) -> None:
    event = {"event": "done-job-self"}
    params: dict[str, Any] = {"lookup": event, "explain": event, "code": {"digests": []}}
    for method in METHODS:
        agent.call(method, params.get(method, {}))


def test_status_is_short_however_much_changed(tmp_path: Path) -> None:
    conf = "".join(f"a.pl = x{n}-job-self\n" for n in range(3000))
    conf += "".join(f"b{n}.qcb = done-job-self\n" for n in range(500))
    with running(tmp_path, write(tmp_path / "cb", conf, a_pl="#\n")) as agent:
        last = agent.status()["last_reload"]
        assert "changes" not in last
        assert last["omitted"]["changes"] == 3000
        (record,) = agent.history()
        shown = len(last["diagnostics"])
        assert shown + last["omitted"]["diagnostics"] == len(record["diagnostics"])
        assert [d for d in record["diagnostics"] if d in last["diagnostics"]][:shown] == last[
            "diagnostics"
        ]
        assert len(json.dumps(agent.status())) < 64 << 10


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\x9b", "\u202e", "\u2066", "\u2028"])
def test_no_answer_or_record_can_drive_a_terminal(tmp_path: Path, character: str) -> None:
    conf = f"a.pl = done-job-self\na.pl = done-work-self-x{character}y\n"
    directory = write(tmp_path / "cb", conf, a_pl=f"# {character}\n")
    with running(tmp_path, directory) as agent, agent.connect() as one:
        with one.makefile("rb") as answers:
            for line in (
                call("list", code=True),
                call("history"),
                call("lookup", event=f"done-job-{character}"),
                call("lookup", event={"name": character}),
                call("nothing" + character),
            ):
                one.sendall(line)
                got = answers.readline()
                assert character.encode() not in got
        assert character.encode() not in agent.logged()
        assert agent.call("list", {"code": True})["callbacks"][0]["code"] == f"# {character}\n"


@pytest.mark.parametrize("where", ["lookup", "explain", "callbacks", "subscribed"])
def test_whatever_one_request_raises_is_its_own_error(tmp_path: Path, where: str) -> None:
    method = {"callbacks": "list", "subscribed": "subscribe"}.get(where, where)
    agent = patched(
        tmp_path,
        "import agent.rpc.results as a\n"
        "def fails(*_, **__):\n"
        "    raise MemoryError\n"
        f"a.{where} = fails\n"
        "a.question.is_heavy = lambda _: True",
    )
    agent.start()
    try:
        event = {"event": "done-job-self", "occurred": ["a-job-1"]}
        params = event if method in ("lookup", "explain") else {}
        (agent.directories[0] / "a.pl").write_text("# new\n")
        # A subscription that failed sends no records.
        lines = [call(method, **params), call("reload"), call("unsubscribe")]
        first, second, third = exchange(agent, *lines)
        assert first["error"]["code"] == INTERNAL_ERROR
        assert second["result"]["generation"] == 2
        assert third["result"] == {}
        wait_for(lambda: "MemoryError" in agent.errors.read_text(), "the report")
    finally:
        agent.stop()


def test_a_line_of_which_the_decoding_raises_is_its_own_error(tmp_path: Path) -> None:
    agent = patched(
        tmp_path,
        "import agent.rpc.jsonrpc as p\n"
        "real = p.read_quickly\n"
        "def fails(line):\n"
        "    if b'poison' in line: raise MemoryError\n"
        "    return real(line)\n"
        "p.read_quickly = fails",
    )
    agent.start()
    try:
        short = call("lookup", event="poison-job-self", code=True)[:-1] + b" \n"
        long = call("lookup", event="poison-job-self", owner={"label": "x" * 100_000})
        for line in (b'{"poison":1}\n', long):
            first, second = exchange(agent, line, call("unsubscribe"))
            assert first["error"]["code"] == INTERNAL_ERROR, line[:100]
            assert second["result"] == {}
        # Decoded by the batcher, as one of many.
        assert "result" in exchange(agent, short)[0]
    finally:
        agent.stop()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (PipeLimits(max_work_seconds=0.0), "more than 0 s"),
        (PipeLimits(max_result_bytes=300), "more than 300 bytes"),
    ],
    ids=["seconds", "bytes"],
)
def test_one_request_costs_no_more_than_it_may(
    tmp_path: Path, limits: PipeLimits, message: str
) -> None:
    agent = Agent(tmp_path, write(tmp_path / "cb", CONF, a_pl="#\n")).use(Timing(pipe=limits))
    agent.start()
    try:
        first, second = exchange(agent, call("list", code=True), call("unsubscribe"))
        assert first["error"]["code"] == -32000
        assert message in first["error"]["message"]
        assert second["result"] == {}
    finally:
        agent.stop()


def test_work_on_what_nobody_waits_for_ends() -> None:
    gone = False
    effort = offload.Effort(lambda: gone, PipeLimits())
    effort.begin()
    effort.spend(1)
    gone = True
    with pytest.raises(offload.Abandoned):
        effort.checkpoint()
    many = index.Index.of(1, [served([f"done-job-{n}" for n in range(3000)])])
    with pytest.raises(offload.Abandoned):
        results.callbacks(many, False, effort.spend)


def test_an_answer_that_is_too_long_for_a_batch_is_worked_out_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = index.Index.of(1, [served([f"done-job-{'x' * n}*" for n in range(100)])])
    calls = []
    real = index.Index.lookup

    def counted(self: index.Index, *rest: Any) -> index.Match:
        calls.append(rest)
        return real(self, *rest)

    monkeypatch.setattr(index.Index, "lookup", counted)
    cache = LookupCache(many)
    event = "done-job-" + "x" * 100
    line = b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"%b"}}\n' % event.encode()
    requests = jsonrpc.read_together([line])
    assert requests is not None
    with pytest.raises(NotQuick):
        cache.responses(requests, lambda: False)
    assert len(cache.result(LookupParams(event))) > MAX_BATCHED_RESULT
    assert len(calls) == 1
