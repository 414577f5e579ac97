"""Asks the same questions through the pipe and through every client, and compares the answers.

Events, owners, `occurred` and `pending` are generated; each question goes to one agent as a line on
the pipe itself and to each client of `clients.drivers`. It prints how many answers there were of
which kind, the time that each client took, and every answer that differs; it exits 1 if one does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from clients import drivers
from support import cases
from support.agents import Agent, write

#: Cases whose triggers are served, and from which the events are taken.
CASES = 100
#: How many of the answers that differ are shown.
MAX_SHOWN = 5
#: Owners of one question at most.
MAX_OWNERS = 12
#: Job ids up to the largest that the pipe takes.
LARGE = [2**31, 2**53 + 1, 2**63 - 1]


class Question(NamedTuple):
    """A method of the pipe and its parameters."""

    method: str
    params: dict[str, Any]


def is_typed(value: Any, name: str = "") -> bool:
    """Whether the members of a job have the types that they should have. A client that knows the
    types corrects them: what it sends is then another question."""
    if isinstance(value, dict):
        return all(is_typed(part, key) for key, part in value.items())
    if isinstance(value, list):
        return all(is_typed(part) for part in value)
    if name in ("id", "pid", "pgrp"):
        return value is None or type(value) is int
    return value is None or isinstance(value, str)


class Questions:
    """Questions about the triggers of some cases."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self._cases = [cases.case(self._chance) for _ in range(CASES)]
        triggers = {" ".join(t.split()) for case in self._cases for t in case.triggers}
        #: Those that fit in a line of callbacks.conf.
        self.triggers = sorted(
            t for t in triggers if t.isprintable() and not set(t) & set("\"'\\#")
        )
        #: The partial callbacks of earlier answers, as `pending` takes them.
        self._pending: list[dict[str, str]] = []

    def conf(self) -> str:
        """The callbacks.conf: the files in three languages, one of them in Latin-1."""
        names = ["a.py", "b.pl", "c.qcb"]
        lines = [f'{names[n % 3]} = "{trigger}"' for n, trigger in enumerate(self.triggers)]
        return "\n".join([*lines, ""])

    def learn(self, outcome: dict[str, Any]) -> None:
        """Take what is partial in an answer for later questions."""
        for callback in outcome.get("result", {}).get("partial", []):
            self._pending.append({key: callback[key] for key in ("path", "trigger", "missing")})
        del self._pending[:-50]

    def next(self) -> Question:
        """A question."""
        chance = self._chance
        while True:
            case = chance.choice(self._cases)
            params: dict[str, Any] = {"event": case.event}
            kind = chance.random()
            if case.owner is not None:
                params["owner"] = case.owner
            if kind < 0.3 and case.occurred:
                params["occurred"] = case.occurred
            elif kind < 0.6:
                params["pending"] = self._some_pending()
            method = "explain" if chance.random() < 0.1 else "lookup"
            if method == "lookup" and chance.random() < 0.25:
                params.pop("owner", None)
                params["owners"] = [
                    self._owner(kind >= 0.3) for _ in range(chance.randrange(MAX_OWNERS))
                ]
            if chance.random() < 0.2:
                params["code"] = chance.random() < 0.8
            if is_typed({key: part for key, part in params.items() if key != "code"}):
                return Question(method, params)

    def _owner(self, may_wait: bool) -> dict[str, Any]:
        owner = cases.owner(self._chance)
        if self._chance.random() < 0.1:
            owner["id"] = self._chance.choice(LARGE)
        if may_wait and self._chance.random() < 0.3:
            owner["pending"] = self._some_pending()
        return owner

    def _some_pending(self) -> list[dict[str, str]]:
        count = min(len(self._pending), self._chance.randrange(4))
        return self._chance.sample(self._pending, count)


class Line:
    """The pipe itself: a line is written, and one is read."""

    def __init__(self, agent: Agent) -> None:
        self._socket = agent.connect()
        self._answers = self._socket.makefile("rb")

    def __call__(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        return {name: answer[name] for name in ("result", "error") if name in answer}

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def same(outcome: dict[str, Any]) -> str:
    """An outcome in one spelling. The class of an error is the driver's own."""
    outcome.get("error", {}).pop("class", None)
    return json.dumps(outcome, sort_keys=True)


def kind(question: Question, outcome: dict[str, Any]) -> list[str]:
    """What a question was about, and what came of it."""
    found = [question.method, *sorted(question.params.keys() - {"event"})]
    if "error" in outcome:
        return [*found, "refused"]
    result = outcome["result"]
    return [*found, *(name for name in ("callbacks", "partial") if result.get(name))]


def compare(agent: Agent, questions: Questions, count: int) -> bool:
    """Ask so many questions. Whether all answers were the same."""
    kinds: Counter[str] = Counter()
    took: defaultdict[str, float] = defaultdict(float)
    differing = 0
    with contextlib.ExitStack() as stack:
        pipe = stack.enter_context(contextlib.closing(Line(agent)))
        calls: dict[str, drivers.Call] = {"pipe": pipe}
        for name, row in drivers.CLIENTS.items():
            if row.program and shutil.which(row.program) is None:
                print(f"{name}: not asked, as {row.program} is not installed")
            else:
                calls[name] = stack.enter_context(row.driver(str(agent.pipe)))
        for number in range(count):
            question = questions.next()
            answers = {}
            for name, call in calls.items():
                began = time.monotonic()
                answers[name] = call(*question)
                took[name] += time.monotonic() - began
            kinds.update(kind(question, answers["pipe"]))
            questions.learn(answers["pipe"])
            expected = same(answers["pipe"])
            for name, answer in answers.items():
                if same(answer) != expected:
                    differing += 1
                    if differing <= MAX_SHOWN:
                        print(
                            f"question {number}, {name}: {question}\n  {same(answer)}\n  {expected}"
                        )
    print("questions:", ", ".join(f"{n} {name}" for name, n in kinds.most_common()))
    print("seconds:", ", ".join(f"{seconds:.1f} {name}" for name, seconds in took.items()))
    print(f"{count} questions, {count * len(calls)} answers, {differing} differ")
    return differing == 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--questions", type=int, default=10_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=None, help="of the questions")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    questions = Questions(seed)
    with tempfile.TemporaryDirectory(prefix="agreement-") as folder:
        files = {"a_py": "print('é 🎬')\n", "c_qcb": "mail-status\n"}
        directory = write(Path(folder) / "cb", questions.conf(), **files)
        (directory / "b.pl").write_bytes(b"# Gr\xfc\xdfe\n")
        agent = Agent(Path(folder), directory)
        agent.start()
        try:
            status = agent.status()
            assert status["state"] == "ok", status["last_reload"]["diagnostics"]
            print(f"seed {seed}, {status['callbacks']} callbacks")
            return 0 if compare(agent, questions, options.questions) else 1
        finally:
            agent.stop()


if __name__ == "__main__":
    sys.exit(main())
