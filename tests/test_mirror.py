"""The mirror and a real agent: the same answers as the pipe, and never those of an older index."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from agent.client import AgentError, BadArgument, Client, NoAgent, Refused, TimedOut
from agent.mirror import Mirror, follower
from agent.mirror.answers import Answers
from agent.rpc import listed, results
from agent.rpc.results import no_limit
from support import cases
from support.agents import DEADLINE, Agent, running, wait_for, write
from support.requests import exchange, line

EVENT = "failed-job-self"

#: Generated cases of one directory, each with some four calls. More are for a long search.
CASES = int(os.environ.get("MIRROR_CASES", "120"))


def local(mirror: Mirror) -> Mirror:
    """The mirror when its index is here; it can no longer ask the agent."""
    mirror.wait(DEADLINE)
    mirror._client.close()
    mirror._client = Client(mirror.path + ".none", restart=0)
    return mirror


@contextlib.contextmanager
def mirror_of(agent: Agent, **options: Any) -> Iterator[Mirror]:
    """A mirror that answers from its index even if this machine is suspended for seconds."""
    with paced(agent, follower.Pace(max_silence=DEADLINE), **options) as one:
        yield one


def paced(agent: Agent, pace: follower.Pace, **options: Any) -> Mirror:
    one = Mirror(str(agent.pipe), DEADLINE, **options)
    one._follower = follower.Follower(one.path, DEADLINE, pace)
    return one


def quick(agent: Agent, **options: Any) -> Mirror:
    """A mirror that hears soon that nothing is heard."""
    return paced(agent, follower.Pace(0.1, 0.6, 0.05), **options)


# The same answers ---------------------------------------------------------------------------------


def some_conf(r: Random, count: int) -> tuple[str, list[cases.Case]]:
    """The lines of a callbacks.conf, and cases that are about its triggers."""
    found, lines = [], []
    for _ in range(count):
        case = cases.case(r)
        found.append(case)
        for text in case.triggers:
            if not set(text) & set("\r\n#\"'"):
                extension = r.choice(["py", "py", "pl", "qcb"])
                lines.append(f"{r.randrange(4)}.{extension} = {text}\n")
    return "".join(lines), found


def some_calls(
    r: Random, case: cases.Case, pending: list[Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Calls about a case: alone, with what occurred or is pending, for several owners."""
    about: dict[str, Any] = {"event": case.event}
    if case.owner is not None:
        about["owner"] = case.owner
    yield "lookup", about
    yield "lookup", {**about, "occurred": case.occurred, "code": r.random() < 0.1}
    waits = r.sample(pending, min(len(pending), 3))
    yield "lookup", {**about, "pending": waits}
    owners: list[Any] = [cases.owner(r) for _ in range(r.randrange(4))]
    if owners and r.random() < 0.5:
        owners[0] = {**owners[0], "pending": waits}
    yield "lookup", {"event": case.event, "owners": owners, "code": r.random() < 0.1}
    if r.random() < 0.1:
        yield "explain", {**about, "occurred": case.occurred, "code": r.random() < 0.5}


def some_events(r: Random, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Calls about events in text that differ in little, mostly in the extra."""
    extras = [*cases.EXTRAS, *cases.ODD_EXTRAS, *cases.TIMES]
    for number in range(count):
        extra = str(number) if r.random() < 0.3 else r.choice(extras)
        context = r.choice(["self", "self", "parent", "7", "007", "a"])
        name, kind = r.choice(cases.NAMES), r.choice(["job", "work", "work", *cases.EXTRA_TYPES])
        yield "lookup", {"event": f"{name}-{kind}-{context}-{extra}"}


def said(call: Callable[[], Any]) -> Any:
    """What a call returns, encoded as the agent does; or the error that it raises."""
    try:
        return results.encode(call())
    except Refused as refused:
        return refused.code, refused.message, refused.data


def test_calls_are_answered_byte_for_byte_as_by_the_pipe(tmp_path: Path) -> None:
    r = Random(12)
    found: list[cases.Case] = []
    for name in ("one", "two"):
        conf, about = some_conf(r, CASES)
        found += about
        write(tmp_path / name, conf, **{f"{n}_py": f"n = {n}\n" for n in range(4)})
        for n in range(4):
            (tmp_path / name / f"{n}.pl").write_bytes(f"# \u00e9\x7f{n}\n".encode("latin-1"))
            (tmp_path / name / f"{n}.qcb").write_text("mail-status\n")
    agent = Agent(tmp_path, tmp_path / "one", tmp_path / "two")
    agent.qb_conf.write_text("supervisor_language_flags = python,perl\n")
    agent.start()
    try:
        pending = [
            {"path": c["path"], "trigger": c["trigger"], "missing": c["trigger"]}
            for c in agent.call("list")["callbacks"]
            if "&&" in c["trigger"]
        ]
        calls = [("list", {}), ("list", {"code": True})]
        calls += [call for case in found for call in some_calls(r, case, pending)]
        calls += some_events(r, 4 * CASES)
        assert len(calls) > 10 * CASES
        expected = []
        for start in range(0, len(calls), 100):
            sent = b"".join(
                line({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
                for method, params in calls[start : start + 100]
            )
            expected += exchange(agent, sent)
        with mirror_of(agent) as mirror:
            mirror.lookup(EVENT, code=True)
            mirror.wait(DEADLINE)
            wait_for(lambda: mirror._follower.answers.coded)
            local(mirror)
            refused = 0
            for _ in range(2):  # computed, and kept
                for (method, params), answer in zip(calls, expected, strict=True):
                    got = said(lambda: getattr(mirror, method)(**params))  # noqa: B023
                    if "error" in answer:
                        refused += 1
                        error = answer["error"]
                        assert got == (error["code"], error["message"], error.get("data"))
                    else:
                        assert got == results.encode(answer["result"]), (method, params)
            assert refused
            whole = agent.call("list")
            assert (mirror.generation, mirror.digest) == (whole["generation"], whole["digest"])
    finally:
        agent.stop()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("mirror")
    conf = "".join(f"n{n}.py = failed-job-label{n}\n" for n in range(8))
    write(folder / "callback", conf, **{f"n{n}_py": f"n = {n}\n" for n in range(8)})
    with running(folder, folder / "callback") as agent:
        yield agent


def test_the_first_calls_do_not_wait_for_the_index(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load = threading.Event()
    load = follower.Follower._load

    def later(self: Any, one: Client) -> Any:
        may_load.wait(DEADLINE)
        return load(self, one)

    monkeypatch.setattr(follower.Follower, "_load", later)
    with mirror_of(agent) as mirror:
        assert (mirror.generation, mirror.digest, mirror.age) == (0, "", math.inf)
        first = mirror.lookup("failed-job-label3")
        assert [c["file"] for c in first["callbacks"]] == ["n3.py"]
        assert mirror.generation == 0
        may_load.set()
        assert local(mirror).lookup("failed-job-label3") == first
        assert mirror.generation == first["generation"]
        mirror.wait(math.inf)
        assert mirror.alive
        wait_for(lambda: mirror.age < DEADLINE)


def test_an_index_that_is_older_than_an_answer_which_came_meanwhile_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, may_go_on = threading.Event(), threading.Event()
    load, index = follower.Follower._load, listed.index
    given: list[tuple[int, bool]] = []

    def later(*args: Any) -> Any:
        found = index(*args)
        read.set()
        may_go_on.wait(DEADLINE)
        return found

    def noted(self: Any, one: Client) -> Any:
        loaded = load(self, one)
        given.append((loaded.index.generation, loaded.is_current()))
        return loaded

    monkeypatch.setattr(listed, "index", later)
    monkeypatch.setattr(follower.Follower, "_load", noted)
    folder = write(tmp_path / "callback", "a.py = failed-job-self\n", a_py="1\n")
    with running(tmp_path, folder) as agent, mirror_of(agent) as mirror:
        assert mirror.lookup(EVENT)["generation"] == 1
        assert read.wait(DEADLINE)
        write(folder, "a.py = done-job-self\n")
        Client(mirror.path, DEADLINE).reload()
        assert mirror.lookup(EVENT)["generation"] == 2
        may_go_on.set()
        mirror.wait(DEADLINE)
        assert mirror.generation == 2
    assert given[0] == (1, False)


def test_where_no_thread_can_be_started_the_agent_is_asked(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with mirror_of(agent) as mirror:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            first = mirror.lookup("failed-job-label3")
            assert [c["file"] for c in first["callbacks"]] == ["n3.py"]
            assert (mirror.alive, mirror.generation) == (False, 0)
        assert local(mirror).lookup("failed-job-label3") == first


def test_results_cannot_be_changed_and_copies_can(agent: Agent) -> None:
    with mirror_of(agent) as mirror:
        through_the_pipe = mirror.lookup("failed-job-label3")
        local(mirror)
        answer: Any = mirror.lookup("failed-job-label3")
        assert answer is mirror.lookup("failed-job-label3")
        for one in (through_the_pipe, answer, mirror.list(), mirror.explain(EVENT)):
            assert json.loads(json.dumps(one)) == one
            changes: list[Callable[[Any], Any]] = [
                lambda a: a.update(generation=7),
                lambda a: a.__setitem__("callbacks", []),
                lambda a: a["callbacks"].append({}),
                lambda a: a["callbacks"].clear(),
                lambda a: a["callbacks"].sort(key=str),
                lambda a: a["callbacks"][0].pop("enabled"),
            ]
            before = json.dumps(one)
            for change in changes:
                with pytest.raises((TypeError, IndexError)):
                    change(one)
            assert json.dumps(one) == before
        pickled = pickle.dumps(answer)
        made: Any
        for made in (copy.deepcopy(answer), pickle.loads(pickled)):  # noqa: S301
            assert made == answer
            made["callbacks"][0]["enabled"] = False
            made["callbacks"].append(1)
        assert answer["callbacks"][0]["enabled"]


def test_wrong_arguments_are_the_errors_of_the_client(agent: Agent) -> None:
    wrong: list[Any] = [
        "failed-jbo-self",
        "x",
        "",
        "\udc80",
        3,
        None,
        {"name": "x"},
        math.nan,
        b"x",
    ]
    wrong += ["d\u00f6ne-job", "failed-job-self" * 100_000]
    with mirror_of(agent) as mirror, Client(str(agent.pipe), DEADLINE) as one:
        mirror.wait()
        for event in wrong:
            seen: list[Any] = []
            for asked in (one, mirror):
                with pytest.raises(AgentError) as error:
                    asked.lookup(event)
                seen.append((type(error.value), str(error.value)))
                seen.append(getattr(error.value, "data", None))
            assert seen[:2] == seen[2:], event
        with pytest.raises(Refused) as refused:
            mirror.lookup_many(["failed-job-label1", "x"])
        assert refused.value.index == 1
        with pytest.raises(BadArgument, match="timeout"):
            mirror.explain(EVENT, timeout=math.nan)
        events = [f"failed-job-label{n}" for n in range(9)]
        assert mirror.lookup_many(events) == one.lookup_many(events)


def test_threads_share_one_mirror(agent: Agent) -> None:
    raised: list[BaseException] = []

    def ask(number: int) -> None:
        try:
            for n in range(1500):
                answer = mirror.lookup(f"failed-job-label{number}")
                assert [c["file"] for c in answer["callbacks"]] == [f"n{number}.py"]
                assert not mirror.lookup(f"failed-job-new{number}-{n}")["callbacks"]
        except BaseException as error:
            raised.append(error)

    with mirror_of(agent) as mirror:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert raised == []


def test_what_is_kept_is_bounded(agent: Agent) -> None:
    answers = Answers(listed.index(agent.call("list")), 0.0, max_kept_bytes=20_000)
    for n in range(300):
        answers.to_event(f"failed-job-{n}")
        answers.to_call("lookup", {"event": f"failed-job-{n}", "owner": {"id": n}}, no_limit)
        assert len(answers.events) + len(answers._kept) < 200
    assert [c["file"] for c in answers.to_event("failed-job-label3")["callbacks"]] == ["n3.py"]


def test_after_close_the_agent_is_asked_and_the_thread_ends(agent: Agent) -> None:
    mirror = Mirror(str(agent.pipe), DEADLINE)
    mirror.wait()
    before = mirror.lookup(EVENT)
    thread = mirror._follower._thread
    mirror.close()
    assert mirror.lookup(EVENT) == before
    assert thread is not None
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not mirror.alive
    mirror._client.close()


def test_an_index_that_is_loaded_while_the_mirror_is_closed_never_answers(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = follower.Follower._load

    def closed(self: Any, one: Client) -> Any:
        self.close()
        return load(self, one)

    monkeypatch.setattr(follower.Follower, "_load", closed)
    with mirror_of(agent, last_index=True) as mirror:
        mirror.lookup(EVENT)
        thread = mirror._follower._thread
        assert thread is not None
        thread.join(DEADLINE)
        assert mirror._follower.answers.replaced


def test_a_mirror_that_nobody_holds_ends_its_thread(agent: Agent) -> None:
    mirror = Mirror(str(agent.pipe), DEADLINE)
    mirror.wait()
    thread = mirror._follower._thread
    assert thread is not None
    del mirror
    thread.join(DEADLINE)
    assert not thread.is_alive()


# Edits --------------------------------------------------------------------------------------------


def test_no_answer_is_of_an_older_index_than_one_that_was_given(tmp_path: Path) -> None:
    directory = write(tmp_path / "callback", f"a.py = {EVENT}\n", a_py="0\n")
    with running(tmp_path, directory) as agent, mirror_of(agent) as mirror:
        served = {1: "0\n"}
        over = threading.Event()

        def edit() -> None:
            with Client(str(agent.pipe), DEADLINE) as one:
                for n in range(1, 12):
                    (directory / "a.py").write_text(f"{n}\n")
                    served[one.reload()["generation"]] = f"{n}\n"
            over.set()

        editor = threading.Thread(target=edit)
        editor.start()
        seen = []
        n = 0
        while not over.is_set():
            n += 1
            answers: list[Any] = [mirror.lookup(EVENT), mirror.lookup(EVENT, code=True)]
            answers += [mirror.lookup(f"{EVENT}-{n}"), mirror.list(), mirror.explain(EVENT)]
            seen += [(a["generation"], a["callbacks"]) for a in answers]
        editor.join(DEADLINE)
        assert [generation for generation, _ in seen] == sorted(g for g, _ in seen)
        by_generation: dict[int, set[str]] = {}
        for generation, callbacks in seen:
            for callback in callbacks:
                by_generation.setdefault(generation, set()).add(callback["digest"])
                if "code" in callback:
                    assert callback["code"] == served[generation]
        assert all(len(digests) == 1 for digests in by_generation.values())
        wait_for(lambda: mirror.generation == 12)
        local(mirror)
        wait_for(lambda: mirror._follower.answers.coded)
        assert mirror.list(code=True)["callbacks"][0]["code"] == "11\n"


def test_held_directories_are_named_as_the_pipe_does(tmp_path: Path) -> None:
    there = write(tmp_path / "there", f"a.py = {EVENT}\n", a_py="0\n")
    here = write(tmp_path / "here", f"b.py = {EVENT}\n", b_py="0\n")
    with running(tmp_path, there, here) as agent, mirror_of(agent) as mirror:
        mirror.wait()
        for held, confs in (
            ([here], {here: "nonsense\n"}),
            ([here, there], {there: "nonsense\n"}),
            ([there], {here: f"b.py = {EVENT}\n"}),
            ([], {there: f"a.py = {EVENT}\n"}),
        ):
            for directory, conf in confs.items():
                (directory / "callbacks.conf").write_text(conf)
            agent.reload()
            expected = agent.lookup(EVENT)
            assert expected.get("held", []) == [str(path) for path in held]
            wait_for(lambda: mirror.lookup(EVENT) == expected)  # noqa: B023
            mirror.wait()
            answers = mirror._follower.answers
            assert answers.to_event(EVENT) == expected


# The agent goes, and comes back -------------------------------------------------------------------


def test_while_the_agent_is_gone_the_last_index_answers_if_that_is_wanted(tmp_path: Path) -> None:
    directory = write(tmp_path / "callback", f"a.py = {EVENT}\n", a_py="0\n")
    with (
        running(tmp_path, directory) as agent,
        mirror_of(agent, restart=0) as strict,
        mirror_of(agent, restart=0, last_index=True) as lenient,
    ):
        for one in (strict, lenient):
            one.wait()
            one.lookup(EVENT, code=True)
        wait_for(lambda: lenient._follower.answers.coded)
        before = lenient.lookup(EVENT)
        agent.stop(signal.SIGKILL)
        wait_for(lambda: not strict.alive and not lenient.alive)
        for _ in range(2):
            assert lenient.lookup(EVENT) == before
            assert [p["reason"] for p in lenient.explain(EVENT)["callbacks"]]
            assert lenient.lookup(EVENT, code=True)["callbacks"][0]["code"] == "0\n"
            for call in (strict.lookup, strict.explain):
                with pytest.raises(NoAgent):
                    call(EVENT)
        age = lenient.age
        wait_for(lambda: lenient.age > age)
        # Edited while no agent looks. Perl needs no check, for which a start does not wait long.
        write(directory, f"a.py = {EVENT}\nb.pl = {EVENT}\n", b_pl="1\n")
        agent.start()
        for one in (strict, lenient):
            one.wait(DEADLINE)
            assert [c["file"] for c in one.lookup(EVENT)["callbacks"]] == ["a.py", "b.pl"]
            assert one.lookup(EVENT) == agent.lookup(EVENT)
            assert one.alive


def test_what_is_known_to_be_replaced_never_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write(tmp_path / "callback", f"a.py = {EVENT}\n", a_py="0\n")
    with (
        running(tmp_path, directory) as agent,
        mirror_of(agent, restart=0, last_index=True) as mirror,
    ):
        mirror.wait()
        tried = threading.Event()

        def fails(self: Any, one: Client) -> Any:
            tried.set()
            raise NoAgent("not now")

        monkeypatch.setattr(follower.Follower, "_load", fails)
        write(directory, f"b.py = {EVENT}\n", b_py="1\n")
        agent.reload()
        assert tried.wait(DEADLINE)
        assert [c["file"] for c in mirror.lookup(EVENT)["callbacks"]] == ["b.py"]
        agent.stop()
        with pytest.raises(NoAgent):
            mirror.lookup(EVENT)


def test_an_agent_that_is_stopped_is_not_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write(tmp_path / "callback", f"a.py = {EVENT}\n", a_py="0\n")
    with running(tmp_path, directory) as agent:
        assert agent.process is not None
        with quick(agent) as strict, quick(agent, last_index=True) as lenient:
            for one in (strict, lenient):
                one.wait()
            before = lenient.lookup(EVENT)
            agent.process.send_signal(signal.SIGSTOP)
            try:
                wait_for(lambda: not strict.alive and lenient._follower.gone)
                with pytest.raises(TimedOut):
                    strict.explain(EVENT, timeout=0.1)
                assert lenient.lookup(EVENT) == before
                assert lenient.age > 0.5
                with monkeypatch.context() as patch:
                    # Not noticed yet: the agent is asked first, and takes all the time.
                    patch.setattr(Mirror, "_may_answer", lambda *_: False)
                    found = lenient.explain(EVENT, timeout=1)
                    assert [c["verdict"] for c in found["callbacks"]] == ["fires"]
            finally:
                agent.process.send_signal(signal.SIGCONT)
            wait_for(lambda: strict.alive and lenient.alive)
            wait_for(lambda: strict._may_answer(strict._follower.answers))
            assert strict._follower.answers.to_event(EVENT) == before


def test_without_an_agent_every_call_says_so(tmp_path: Path) -> None:
    with Mirror(str(tmp_path / "pipe"), restart=0, last_index=True) as mirror:
        for call in (mirror.lookup, mirror.explain):
            with pytest.raises(NoAgent, match="no pipe"):
                call(EVENT)
        with pytest.raises(NoAgent):
            mirror.list()
        with pytest.raises(AgentError):
            mirror.wait(0.1)
        assert (mirror.alive, mirror.age, mirror.generation) == (False, math.inf, 0)


def test_an_answer_of_another_form_is_an_error(agent: Agent, monkeypatch: Any) -> None:
    monkeypatch.setattr(Client, "list", lambda self: {"generation": 1, "callbacks": [{}]})
    with mirror_of(agent) as mirror:
        with pytest.raises(AgentError):
            mirror.wait(0.2)
        wait_for(lambda: "not a callback agent" in str(mirror._follower.error))
        assert [c["file"] for c in mirror.lookup("failed-job-label3")["callbacks"]] == ["n3.py"]


# Forks --------------------------------------------------------------------------------------------


def in_child(act: Callable[[], Any]) -> Any:
    """What a function returns in the child of a fork."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writes, msgspec.json.encode(act()))
            status = 0
        except BaseException:
            os.write(writes, msgspec.json.encode(traceback.format_exc()))
        finally:
            os._exit(status)
    os.close(writes)
    with open(reads, "rb") as pipe:
        got = msgspec.json.decode(pipe.read())
    _, status = os.waitpid(pid, 0)
    assert status == 0, got
    return got


def test_a_child_has_the_index_and_follows_the_agent_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write(tmp_path / "callback", f"a.py = {EVENT}\n", a_py="0\n")
    with running(tmp_path, directory) as agent, mirror_of(agent) as mirror:
        mirror.wait()
        before = mirror.lookup(EVENT)

        def child() -> Any:
            first = mirror.lookup(EVENT)
            with monkeypatch.context() as patch:
                # It does not load again what it has.
                patch.setattr(follower.Follower, "_load", None)
                mirror.wait(DEADLINE)
            same = mirror._follower.answers.to_event(EVENT)
            write(directory, f"b.py = {EVENT}\n", b_py="1\n")
            Client(mirror.path, DEADLINE).reload()
            wait_for(lambda: mirror.generation == 2)
            grandchild = in_child(lambda: [mirror.lookup(EVENT), local(mirror).lookup(EVENT)])
            return [first, same, local(mirror).lookup(EVENT), *grandchild]

        first, same, *later = in_child(child)
        assert first == same == before
        assert all([c["file"] for c in answer["callbacks"]] == ["b.py"] for answer in later)
        wait_for(lambda: mirror.generation == 2)
        mirror.wait()
        assert mirror.lookup(EVENT) == later[0]
        # The connections of the children are closed.
        wait_for(lambda: agent.status()["clients"] <= 2)


def test_a_child_that_first_asks_later_does_not_trust_what_it_inherited(tmp_path: Path) -> None:
    directory = write(tmp_path / "callback", f"a.py = {EVENT}\n", a_py="0\n")
    with running(tmp_path, directory) as agent, mirror_of(agent, last_index=True) as mirror:
        mirror.wait()
        mirror.lookup(EVENT)

        def child() -> Any:
            write(directory, f"b.py = {EVENT}\n", b_py="1\n")
            Client(mirror.path, DEADLINE).reload()
            return mirror.lookup(EVENT)

        assert [c["file"] for c in in_child(child)["callbacks"]] == ["b.py"]
