"""What callbacks may ask of the farm: by the module `qb`, and by code strings."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.languages import CODES
from agent.runner import Target
from agent.runner.farm import BadCall, call
from support.farms import Recorder, callback, perl, python, run, until_limit

needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")


@pytest.mark.parametrize("begin", ["", "import qb\n"])
def test_python_finds_qb(begin: str) -> None:
    farm = Recorder([{"id": 1234, "name": "m\u00e4rz"}, {"id": 5}])
    code = begin + (
        "print(qb.jobid(), qb.jobinfo('-id', qb.jobid())[0]['name'], qb.jobinfo(id=[5, 6]))\n"
        "print(len(qb.jobinfo()))\n"
        "qb.block(5); qb.retrywork('1234:a b'); qb.fail('1234.0', {'id': 6}); qb.kill([7, '8'])\n"
        "qb.modify({'priority': 9}, 1234); qb.modify(1234, label='x')\n"
    )
    result = python(code, farm=farm)
    assert result.outcome == "succeeded", result.output
    assert result.output == "1234 m\u00e4rz [{'id': 5}]\n2\n"
    assert farm.asked == [
        "block job 5",
        "retry job 1234 work a b",
        *("fail job 1234 subjob 0", "fail job 6", "kill job 7", "kill job 8"),
        *("modify job 1234 {'priority': 9}", "modify job 1234 {'label': 'x'}"),
    ]


@needs_perl
@pytest.mark.parametrize("begin", ["", "use qb;\n"])
def test_perl_finds_qb(begin: str) -> None:
    farm = Recorder([{"id": 1234, "name": "render"}])
    code = begin + (
        "my ($job) = qb::jobinfo('-id', $qb::jobid);\n"
        'print qb::jobid(), " $job->{name} $0 ", __FILE__, \' \', __LINE__, "\\n";\n'
        'qb::retrywork("$qb::jobid:7"); qb::modify({priority => 9}, 1234);\n'
        "eval { qb::migrate(5) }; print $@;\n"
        "print <DATA>;\n"
        "__END__\nlast line\n"
    )
    result = perl(code, farm=farm)
    assert result.outcome == "succeeded", result.output
    line = 3 if begin else 2
    path = "/farm/callback/a.pl"
    assert result.output == (
        f"1234 render {path} {path} {line}\n"
        f"RuntimeError: no other host at {path} line {line + 2}.\n"
        "last line\n"
    )
    assert farm.asked == ["retry job 1234 work 7", "modify job 1234 {'priority': 9}"]


#: A wrong call, and what is said of it.
WRONG = {
    "qb.block()": "block needs the id of a job",
    "qb.block('all')": "'all' is not a job",
    "qb.block(True)": "is not a job",
    "qb.block(5, force=True)": "block takes no argument force",
    "qb.block(5, 'x')": "'x' is not a job",
    "qb.retrywork(5)": "retrywork needs a work item",
    "qb.modify(5)": "modify needs fields",
    "qb.jobinfo('-user', 'a')": "only jobs by id",
    "qb.jobinfo('-id')": "only jobs by id",
    "qb.migrate(5)": "RuntimeError: no other host",
    "qb.jobinfo('-id', 13)": "not JSON serializable",
    "qb.block(object())": "not JSON serializable",
    "qb.submit({})": "has no attribute 'submit'",
}


def test_what_is_asked_wrongly_is_an_error_in_the_callback() -> None:
    farm = Recorder([{"id": 13, "when": object()}])
    tries = [f"try: {one}\nexcept Exception as e: print(e)\nelse: print()\n" for one in WRONG]
    result = python("".join(tries), farm=farm)
    lines = result.output.splitlines()
    assert len(lines) == len(WRONG)
    for (wrong, said), line in zip(WRONG.items(), lines, strict=True):
        assert said in line, wrong
    # All arguments are read before anything is done.
    assert farm.asked == []
    refused = python("qb.migrate(5)")
    assert refused.status == 1
    assert refused.output.endswith("\nqb.error: RuntimeError: no other host\n")
    assert python("try: qb.migrate(5)\nexcept qb.error: pass").outcome == "succeeded"


def test_a_large_answer_and_many_requests_from_threads() -> None:
    farm = Recorder([{"id": n, "note": "x" * 2000} for n in range(1, 1001)])
    code = (
        "import threading\n"
        "print(len(qb.jobinfo()))\n"
        "def ask():\n"
        "    for n in range(1, 21): qb.block(n)\n"
        "threads = [threading.Thread(target=ask) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
    )
    result = python(code, farm=farm)
    assert (result.outcome, result.output) == ("succeeded", "1000\n")
    assert sorted(farm.asked) == sorted(f"block job {n}" for n in range(1, 21) for _ in range(4))


#: The largest id that the agent takes.
MAX_ID = (1 << 63) - 1


def test_a_job_may_be_any_mapping() -> None:
    result = python(
        "print(qb.jobinfo())", farm=Recorder([MappingProxyType({"id": 7, "name": "shot"})])
    )
    assert result.output == "[{'id': 7, 'name': 'shot'}]\n"


def test_a_request_that_is_too_long_is_an_error_in_the_callback() -> None:
    farm = Recorder()
    result = python(
        "try: qb.modify({'note': 'x' * (1 << 20)}, 1)\n"
        "except qb.error as e: print(e)\n"
        f"qb.block({MAX_ID})\n",
        farm=farm,
    )
    assert (result.outcome, result.output) == (
        "succeeded",
        "modify: its arguments have more than 1048576 bytes\n",
    )
    if shutil.which("perl"):
        result = perl(
            "eval { qb::modify({note => 'x' x 1048576}, 1) }; print $@; qb::block(2)", farm=farm
        )
        assert result.output.startswith("modify: its arguments have more than 1048576 bytes at ")
    assert farm.asked == [f"block job {MAX_ID}", *(["block job 2"] if shutil.which("perl") else [])]


def test_a_process_that_the_callback_forked_cannot_use_qb() -> None:
    code = (
        "import os\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: qb.block(1)\n"
        "    except qb.error as e: print(e)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "qb.kill(2)\n"
    )
    farm = Recorder()
    result = python(code, farm=farm)
    assert result.output == "a process that a callback started cannot use qb\n"
    assert farm.asked == ["kill job 2"]


def test_bytes_that_are_not_a_request_harm_only_the_callback() -> None:
    code = (
        "import os\n"
        "(fd,) = [n for n in range(3, 200) if os.path.exists('/dev/fd/%d' % n)]\n"
        "os.write(fd, b'[' * 100000 + b'\\n' + b'1\\n')\n"
        "print(os.read(fd, 7).decode())\n"
        "while True: os.write(fd, b'x' * 65536)\n"
    )
    (result,) = until_limit(lambda results: results[0].output != "", callback("a.py", code))
    assert result.outcome in ("timed-out", "failed")
    assert result.output.startswith('{"error')
    assert python("qb.block(1)").outcome == "succeeded"


class Slow(Recorder):
    """Takes its time for `jobinfo`."""

    def __init__(self, seconds: float, *jobs: Mapping[str, Any]) -> None:
        super().__init__(jobs)
        self.seconds = seconds

    def jobinfo(self, ids: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        self.asked.append("jobinfo")
        time.sleep(self.seconds)
        return super().jobinfo(ids)


#: Finds the descriptor of the farm.
FARM = "import os, time\n(fd,) = [n for n in range(3, 200) if os.path.exists('/dev/fd/%d' % n)]\n"


@pytest.mark.parametrize(
    ("then", "farm"),
    [
        ("while True: os.read(fd, 65536)", Slow(0.1)),
        ("time.sleep(1000)", Slow(0.0, {"id": 1, "note": "x" * (1 << 20)})),
    ],
    ids=["reads", "does-not-read"],
)
def test_one_that_sends_many_requests_at_once(then: str, farm: Slow) -> None:
    """The farm is asked until the time limit, and while the answers are read."""
    ask = 'os.write(fd, b\'{"function": "jobinfo", "args": [], "named": {}}\\n\' * 100)\n'
    result = python(FARM + ask + then, farm=farm, time_limit=0.8)
    assert result.outcome == "timed-out"
    assert len(farm.asked) < 20


def test_requests_that_are_sent_at_once_are_answered_in_order() -> None:
    code = FARM + (
        'one = \'{"function": "block", "args": [%d], "named": {}}\\n\'\n'
        "os.write(fd, ''.join(one % n for n in range(1000)).encode())\n"
        "got = b''\n"
        "while got.count(b'\\n') < 1000: got += os.read(fd, 65536)\n"
        "print(got.decode(), end='')\n"
    )
    farm = Recorder()
    result = python(code, farm=farm)
    assert result.output.endswith('{"result": [998]}\n{"result": [999]}\n')
    assert farm.asked == [f"block job {n}" for n in range(1000)]


@settings(max_examples=30)
@given(
    st.text(max_size=12),
    st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
def test_no_call_reaches_the_farm_wrongly(name: str, args: list[Any], named: Any) -> None:
    farm = Recorder()
    for function in (name, "block", "jobinfo", "modify", "killwork"):
        with contextlib.suppress(BadCall):
            call(farm, function, args, named)
    assert all(one.split()[1] == "job" for one in farm.asked)


# Code strings -----------------------------------------------------------------------------------


def test_every_code_string_reaches_the_farm() -> None:
    for text in sorted(CODES - {"migrate-self", "migrate-subjob-self"}):
        farm = Recorder()
        kind = "work" if "work" in text else "subjob" if "subjob" in text else ""
        event = f"failed-{kind}-self-7" if kind else "failed-job-self"
        (result,) = run(callback("a.qcb", f" {text}\n"), farm=farm, event=event)
        assert result.outcome == "succeeded", (text, result.reason)
        verb = text.split("-")[0]
        report = text.removeprefix("mail-") + " " if verb == "mail" else ""
        # The only code string of mail that names an instance is about the job's instances.
        end = f" {kind} 7" if kind and verb != "mail" else ""
        assert farm.asked == [f"{verb} {report}{Target(1234)}{end}"]


OBJECT = {"name": "failed", "type": "work", "extra": "7"}


@pytest.mark.parametrize(
    ("event", "asked"),
    [
        ("failed-work-self-a-1", ["fail job 1234 work a-1"]),
        ("failed-work-1234-7", ["fail job 1234 work 7"]),
        ("failed-work-99-7", []),
        ("failed-work-label-7", []),
        ("failed-subjob-self-7", []),
        ({**OBJECT, "job": {"id": 1234}}, ["fail job 1234 work 7"]),
        ({**OBJECT, "job": {"label": "own"}}, ["fail job 1234 work 7"]),
        ({**OBJECT, "job": {"id": 99}}, []),
        ("nonsense", []),
        (None, []),
    ],
)
def test_a_work_item_is_that_of_the_own_job(event: Any, asked: list[str]) -> None:
    farm = Recorder()
    (result,) = run(callback("a.qcb", "fail-work-self"), farm=farm, event=event)
    assert farm.asked == asked
    assert result.outcome == ("succeeded" if asked else "not-run")


def test_what_the_farm_raises_is_a_result() -> None:
    (result,) = run(callback("a.qcb", "migrate-self"))
    said = "migrate-self: RuntimeError: no other host"
    assert (result.outcome, result.reason) == ("failed", said)
