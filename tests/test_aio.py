"""The asynchronous client and a real agent, on asyncio and on trio."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent import aio, client
from agent.client import AgentError, NoAgent, Refused, TimedOut
from support.agents import DEADLINE, Agent, running, write
from support.sites import replace

BACKENDS = ["asyncio", "trio"]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("aio")
    code = {f"n{n}_py": f"number = {n}\n" for n in range(8)}
    conf = "".join(f"n{n}.py = failed-job-label{n}\n" for n in range(8))
    write(folder / "callback", conf, **code)
    with running(folder, folder / "callback") as agent:
        yield agent


@pytest.fixture(params=BACKENDS)
def run(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    return lambda act: anyio.run(act, backend=request.param)


def files(answer: Any) -> list[str]:
    return [c["file"] for c in answer["callbacks"]]


def test_the_clients_have_the_same_methods() -> None:
    one, other = (
        {name for name in vars(each) if not name.startswith("_")}
        for each in (client.Client, aio.Client)
    )
    assert one - {"close"} == other - {"aclose"}


def test_all_methods_answer_as_the_other_client(agent: Agent, run: Any) -> None:
    path = str(agent.pipe)
    events = [f"failed-job-label{n % 9}" for n in range(2000)]

    async def act() -> None:
        with client.Client(path, DEADLINE) as other:
            async with aio.Client(path, DEADLINE) as one:
                assert await one.lookup(events[3]) == other.lookup(events[3])
                for _ in range(2):
                    found = await one.lookup(events[3], code=True)
                    assert found == other.lookup(events[3], code=True)
                assert await one.lookup(events[3], owners=[{"id": 1}]) == other.lookup(
                    events[3], owners=[{"id": 1}]
                )
                assert await one.explain(events[3]) == other.explain(events[3])
                assert await one.list(code=True) == other.list(code=True)
                digest = found["callbacks"][0]["digest"]
                assert await one.code([digest]) == other.code([digest])
                assert (await one.metrics())["text"].endswith("# EOF\n")
                assert (await one.status())["pid"] == other.status()["pid"]
                assert (await one.reload())["generation"] == other.status()["generation"]
                assert await one.history(1) == other.history(1)
                assert await one.lookup_many([]) == []
                assert await one.lookup_many(events) == other.lookup_many(events)
                with pytest.raises(Refused) as refused:
                    await one.lookup_many([*events[:500], "x", "y"])
                assert refused.value.index == 500
                assert files(await one.lookup(events[5])) == ["n5.py"]

    run(act)


def test_tasks_share_one_client_and_get_their_own_answers(agent: Agent, run: Any) -> None:
    async def act() -> None:
        async with aio.Client(str(agent.pipe), DEADLINE) as one:

            async def ask(number: int) -> None:
                for _ in range(50):
                    found = await one.lookup(f"failed-job-label{number}")
                    assert files(found) == [f"n{number}.py"]

            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(ask, number)

    run(act)


def test_what_fails_is_an_error_of_the_agent(agent: Agent, run: Any, tmp_path: Path) -> None:
    async def act() -> None:
        async with aio.Client(str(agent.pipe), DEADLINE) as one:
            for wrong in (math.nan, {1}, b"x", object()):
                with pytest.raises(AgentError):
                    await one.lookup(wrong)  # type: ignore[call-overload]
            with pytest.raises(TimedOut, match="within 0 s"):
                await one.status(timeout=0)
            # A call that was given up does not harm the next.
            with anyio.move_on_after(0):
                await one.list()
            assert (await one.status())["state"] == "ok"
        with pytest.raises(NoAgent, match="no pipe"):
            await aio.Client(str(tmp_path / "none"), restart=0).status()

    run(act)


def test_records_come_and_a_restart_is_waited_for(run: Any, tmp_path: Path) -> None:
    directory = write(tmp_path / "callback", "a.py = failed-job-self\n", a_py="0\n")

    async def act() -> None:
        with running(tmp_path, directory) as agent:
            async with aio.Client(str(agent.pipe), DEADLINE, restart=DEADLINE) as one:
                async with await one.subscribe() as records:
                    assert records.generation == 1
                    with pytest.raises(TimedOut):
                        await records.next(timeout=0.01)
                    replace(directory / "a.py", "1\n")
                    with anyio.fail_after(DEADLINE):
                        record = await records.next()
                    assert record["generation"] == 2
                    await anyio.to_thread.run_sync(agent.stop)
                    assert (await records.next(DEADLINE))["event"] == "stopped"
                    with pytest.raises(NoAgent):
                        await records.next(DEADLINE)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.to_thread.run_sync, agent.start)
                    assert files(await one.lookup("failed-job-self")) == ["a.py"]

    run(act)
