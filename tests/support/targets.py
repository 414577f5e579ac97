"""What must hold for any bytes: each target takes some, and raises AssertionError if it does not.

`scripts/fuzz` feeds them; so does whoever wants to see again what it found.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from agent import settings
from agent.core import conf, languages, planning, trigger, unit
from agent.core.diagnostic import Diagnostic, Severity
from agent.core.event import Event, EventError
from agent.core.index import Index, ServedDirectory
from agent.core.term import Term
from agent.core.unit import Implementation, Registration, Unit
from agent.reload import syntax_check
from agent.rpc import jsonrpc, results
from agent.rpc.lines import Lines
from agent.rpc.lookup_cache import LookupCache, NotQuick
from agent.rpc.messages import INVALID_PARAMS, Request
from agent.rpc.question import BadText
from agent.settings.host import Host
from agent.timing import DEFAULTS, CheckLimits
from support.conf_lines import read_callbacks

#: The most bytes of an input that is repeated. Quadratic time shows well below.
MAX_BYTES = 1 << 16
#: Seconds of processor time that an input may take, and that each of its bytes may add. The
#: slowest honest input takes some microseconds a byte; a shared machine takes several times that.
MAX_SECONDS, MAX_SECONDS_A_BYTE = 0.5, 50e-6
#: Measurements of an input that took too long: a suspended virtual machine may count the pause as
#: processor time of the process that ran.
TRIES = 3

Target = Callable[[bytes], None]


def repeated(data: bytes) -> bytes:
    """One input of 16 is repeated until it is large enough to show quadratic time."""
    if len(data) < 2 or data[0] & 15 != 7:
        return data
    part = data[1:]
    return (part * (MAX_BYTES // len(part)))[: MAX_BYTES >> (data[0] >> 5)]


def in_time(target: Target) -> Target:
    """The target, which then fails also if its time is not linear in its input."""

    @functools.wraps(target)
    def timed(data: bytes) -> None:
        data = repeated(data)
        most = MAX_SECONDS + MAX_SECONDS_A_BYTE * len(data)
        for tried in range(1, TRIES + 1):
            began = time.thread_time()
            target(data)
            took = time.thread_time() - began
            if took < most:
                return
            assert tried < TRIES, f"{len(data)} bytes took {took:.2f} s"

    return timed


def _is_line(sent: bytes) -> Any:
    """The JSON of one answer's line."""
    assert sent.endswith(b"\n")
    assert sent.count(b"\n") == 1
    return json.loads(sent)


def _index() -> Index:
    triggers = (
        *("done-job-self", "done-job-self && failed-work-parent-*", "*-job-*", "a-work-x*-1"),
        *("(done-job-7 || b-job-label) && *-work-*-*", "globaltime-1*", "done-subjob-*-0"),
    )
    lines = []
    for line, text in enumerate(triggers, 1):
        tree, _ = trigger.parse(text)
        assert tree is not None
        lines.append(Registration("a.py", tree, str(tree), line))
    one = Unit(tuple(lines), {"a.py": Implementation.of(b"0\n\xff")})
    return Index.of(1, [ServedDirectory.of("/cb", one, languages.DEFAULT_FLAGS)])


INDEX = _index()


def _answered(request: Request) -> bytes:
    """The answer of a request, as far as it depends on its own bytes alone."""
    try:
        if request.method == "lookup":
            return jsonrpc.result(request.id, results.lookup(INDEX, request.params))
        if request.method == "explain":
            return jsonrpc.result(request.id, results.explain(INDEX, request.params))
        if request.method == "list":
            return jsonrpc.result(request.id, results.callbacks(INDEX, request.params.code))
    except BadText as wrong:
        return jsonrpc.error(request.id, INVALID_PARAMS, str(wrong), wrong.data)
    return jsonrpc.result(request.id, b"{}")


def _line_answered(line: bytes) -> bytes:
    message = jsonrpc.read(line)
    if isinstance(message, jsonrpc.Refusal):
        return message.response
    if isinstance(message, jsonrpc.Batch):
        items = message.items
        return jsonrpc.batch(
            [i.response if isinstance(i, jsonrpc.Refusal) else _answered(i) for i in items]
        )
    return _answered(message)


@in_time
def pipe(data: bytes) -> None:
    """Bytes on the pipe: cut at line feeds however they come; each line gets JSON-RPC's answer."""
    lines = Lines()
    step = 1 + len(data) // 7
    cut = [line for at in range(0, len(data), step) for line in lines.feed(data[at : at + step])]
    assert cut == data.split(b"\n")[:-1]
    assert lines.pending == (not data.endswith(b"\n") and data != b"")
    answers = []
    for line in data.split(b"\n"):
        sent = _line_answered(line)
        answers.append(sent)
        if not sent:
            continue
        told = _is_line(sent)
        for one in told if isinstance(told, list) else [told]:
            assert one["jsonrpc"] == "2.0"
            assert one.keys() in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
        if not line.strip(b" \t\r"):
            raise AssertionError("a blank line was answered")
    requests = jsonrpc.read_together([data]) if data else None
    if requests:
        with contextlib.suppress(NotQuick, BadText, ValueError, RecursionError):
            assert LookupCache(INDEX).responses(requests, bool) == answers[:-1]


def _are_findings(findings: list[Diagnostic] | tuple[Diagnostic, ...], data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").split("\n")
    for found in findings:
        assert str(found).isprintable()
        json.dumps(found.as_json()).encode()
        json.dumps(found.as_json(), ensure_ascii=False).encode()
        if found.line is None:
            assert found.column is None
            continue
        assert 1 <= found.line <= len(text), found
        assert found.column is None or 1 <= found.column <= len(text[found.line - 1]) + 1, found


@in_time
def callbacks_conf(data: bytes) -> None:
    """Bytes of callbacks.conf: findings at their places, and what is read is read the same again,
    also where the last reading's triggers are used again."""
    read, findings = read_callbacks(data, "/cb/callbacks.conf")
    _are_findings(findings, data)
    held = {f.line for f in findings if f.severity is Severity.ERROR}
    assert not held & {s.line for s in read}
    plan = planning.plan(data, "/cb/callbacks.conf")
    _are_findings(plan.findings, data)
    again = planning.plan(data, "/cb/callbacks.conf", plan)
    assert again == plan
    for registration in plan.registrations:
        assert languages.language_of(registration.file) is not None
        assert "/" not in registration.file
    files = {file: Implementation.of(b"") for file in plan.files()}
    judged = unit.evaluate(unit.Reading("/cb", None, plan, dict(files)), None)
    _are_findings([f for f in judged.findings if f.path == "/cb/callbacks.conf"], data)


_HOST = Host("linux", 1000, "/home/me", "/home/me")


@in_time
def qb_conf(data: bytes) -> None:
    """Bytes of qb.conf: settings or findings, whatever the other lines are."""
    wanted = ("supervisor_universal_callback_path", "supervisor_language_flags", "qb_directory")
    read, findings = conf.read_qb(data, "/etc/qb.conf", wanted)
    assert read.keys() <= set(wanted)
    _are_findings(findings, data)
    resolved = settings.resolve({}, {}, data, _HOST)
    _are_findings(resolved.findings, data)
    json.dumps(resolved.as_json(), ensure_ascii=False).encode()
    assert all(path.startswith("/") and "\0" not in path for path in resolved.directories)
    assert len(set(resolved.directories)) == len(resolved.directories)


_EVENTS = [
    Event.from_text(text)
    for text in ("done-job-self", "failed-work-7-x", "killed-job-label", "a-work-x-y-1")
]


def _holds(term: Term) -> bool:
    return any(map(term.matches, _EVENTS))


@in_time
def triggers(data: bytes) -> None:
    """A trigger's text: a tree or an error; the tree's text gives the same tree again."""
    text = data.decode("utf-8", "surrogateescape")
    tree, problems = trigger.parse(text)
    assert (tree is None) == any(p.severity is Severity.ERROR for p in problems)
    for problem in problems:
        assert problem.column is not None
        assert 1 <= problem.column <= len(text) + 1, problem
    if tree is not None:
        canonical = str(tree)
        again, _ = trigger.parse(canonical)
        assert again == tree, (canonical[:80], len(canonical), str(again)[:80])
        assert str(again) == canonical
        rest = trigger.missing(tree, _holds)
        if rest is not None:
            reread, _ = trigger.parse(str(rest))
            assert reread == rest
            assert trigger.missing(rest, _holds) == rest
    event = _event(text)
    if event is not None:
        for term in trigger.terms(tree) if tree is not None else ():
            term.matches(event)
        INDEX.lookup(event, tuple(_EVENTS))
        list(INDEX.explain(event, ()))


def _event(text: str) -> Event | None:
    try:
        return Event.from_text(text)
    except EventError as error:
        wrong = error
    assert wrong.column is not None
    assert 1 <= wrong.column <= len(text) + 1
    return None


@in_time
def language_flags(data: bytes) -> None:
    """The text of a .qcb file, and the language flags of a supervisor."""
    for problem in languages.check_qube(data):
        assert problem.line == problem.column == 1
    languages.is_enabled("qube", data, languages.DEFAULT_FLAGS)
    flags, problems = languages.read_flags(data.decode("utf-8", "surrogateescape"))
    assert flags <= languages.FLAGS.keys()
    for found in problems:
        assert found.severity
        assert found.message
        assert found.hint


class Checking:
    """Has sources checked as the agent does, by helpers that live as long as this process.

    The event loop runs in a daemon thread. The threads that it starts are daemon threads too, so
    Python does not wait for them when it exits.
    """

    def __init__(self, limits: CheckLimits = DEFAULTS.checks) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.checker = syntax_check.Checker(lambda _: None, limits)
        self.checker.begin()
        self._task = asyncio.run_coroutine_threadsafe(self.checker.run(), self._loop)

    def verdict(self, source: bytes) -> languages.Verdict | None:
        """The verdict on a source, None where it could not be checked."""
        return self.verdicts("/cb", [source])[0]

    def verdicts(self, directory: str, sources: list[bytes]) -> list[languages.Verdict | None]:
        """The verdicts on the sources of a directory."""

        async def known() -> None:
            self._use(directory, sources)
            await self.checker.wait(directory)

        self._run(known())
        return [self.checker.verdict(Implementation.of(source).digest) for source in sources]

    def begin(self, source: bytes) -> None:
        """Have a source checked, and do not wait for it once it is in the slow lane."""

        async def is_slow() -> None:
            self._use("/cb", [source])
            check = self.checker._queue._checks[Implementation.of(source).digest]
            while check.cpu == 0:  # noqa: ASYNC110 - nothing reports it
                await asyncio.sleep(0.01)

        self._run(is_slow())

    def trouble(self, source: bytes) -> str | None:
        """Why it could not be checked."""
        return self.checker.trouble(Implementation.of(source).digest)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _use(self, directory: str, sources: list[bytes]) -> None:
        read = [Implementation.of(source) for source in sources]
        self.checker.use(directory, {one.digest: one.code for one in read})


@functools.cache
def checking() -> Checking:
    return Checking()


def python(data: bytes) -> None:
    """Python source: a verdict, and the helper keeps running."""
    data = repeated(data)
    verdict = checking().verdict(data)
    assert verdict is not None, "the check could not be made"
    problems = [*verdict.warnings, *([verdict.error] if verdict.error else [])]
    for problem in problems:
        assert problem.severity is Severity.WARNING
        assert (problem.line is None) == (problem.column is None)
        assert problem.line is None or (
            problem.line >= 1 and problem.column and problem.column >= 1
        )
        found = Diagnostic(
            problem.severity, problem.code, "/cb/a.py", None, None, problem.message, problem.hint
        )
        _are_findings([replace(found, line=problem.line)] if problem.line == 1 else [found], data)


#: Every target by its name, with inputs to begin with and the words of its languages.
TARGETS: dict[str, tuple[Target, tuple[bytes, ...], tuple[bytes, ...]]] = {
    "pipe": (
        pipe,
        (
            b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"done-job-self"}}\n',
            b'[{"jsonrpc":"2.0","id":null,"method":"list","params":[]},{"jsonrpc":"2.0",'
            b'"method":"explain","params":{"event":{"name":"a","type":"work","extra":"7","job":'
            b'{"id":7.0,"label":"x","pid":1,"pgrp":2}},"owner":{},"occurred":["x-job-1"]}}]\n',
        ),
        (
            *(b'"jsonrpc":"2.0"', b'"id":1', b'"id":null', b'"method":"', b"lookup", b"explain"),
            *(b"list", b"status", b"reload", b"history", b"subscribe", b"rpc.discover", b'"'),
            *(b'"params":', b'"event":', b'"owner":', b'"occurred":', b'"code":true', b"{", b"}"),
            *(b"[", b"]", b",", b":", b"\n", b"\r", b"\\ud800", b"\xff", b"\0", b"1e999", b"-0"),
            *(b"9" * 40, b"[" * 70, b'{"":' * 70, b'"name":"a"', b'"type":"job"', b'"job":{}'),
            *(b"done-job-self", b"a-work-x-1", b"1.5", b"null", b"true", b'"extra":""', b"\t "),
        ),
    ),
    "callbacks_conf": (
        callbacks_conf,
        (
            b'a.py = done-job-self # c\r\nb.qcb = "x-work-*-7 && (y-job-1 or z-job-q)"\n',
            b"\xef\xbb\xbfc.pl = globaltime-1000\n",
        ),
        (
            *(b"a.py", b"b.pl", b"c.qcb", b" = ", b"\n", b"\r\n", b"#", b'"', b"\\", b"'", b"\0"),
            *(b"done-job-self", b"failed-work-self-*", b"&&", b"||", b"(", b")", b" and ", b" or "),
            *(b"{", b"}", b"=", b"\xff", b"\xc3\xa9", b"\xe2\x80\xa8", b"../", b".PY", b"-", b"*"),
            *(b"\\*", b"globaltime-", b"globalrepeat-1-2", b"\t", b"\x0b", b"\x85", b"subjob"),
        ),
    ),
    "qb_conf": (
        qb_conf,
        (
            b'supervisor_universal_callback_path = "/a, $QBDIR/b" # c\nqb_directory = /q\n',
            b"supervisor_language_flags = {\n  qube, perl\n}\nsupervisor_language_flags = 0x7\n",
        ),
        (
            *(b"supervisor_universal_callback_path", b"supervisor_language_flags"),
            *(b"qb_directory", b" = ", b"\n", b"\r\n", b"#", b'"', b"\\", b"{", b"}", b",", b"\0"),
            *(b"$QBDIR", b"${QBDIR}", b"/", b"..", b"~", b"0x7f", b"127", b"python", b"mial", b"'"),
            *(b"\xff", b"\xc3\xa9", b"other = {\n", b"}\n", b"=", b"9" * 30),
        ),
    ),
    "triggers": (
        triggers,
        (
            b"(done-work-self-7 && failed-job-parent) or *-job-label-x",
            b"globalrepeat-834567890-3600",
            b"done-subjob-001-*",
        ),
        (
            *(b"done", b"failed", b"-job", b"-work", b"-subjob", b"-self", b"-parent", b"-", b"*"),
            *(b"&&", b"||", b" and ", b" or ", b"(", b")", b"&", b"|", b"\\*", b" ", b"\t", b"7"),
            *(
                b"globaltime-",
                b"globalrepeat-",
                b"link-",
                b"\xc3\xa9",
                b"\xff",
                b"\0",
                b"\xe2\x80\x83",
            ),
            *(b"global", b"time", b"repeat", b"007", b"\xd9\xa1", b"And", b"OR", b"host"),
        ),
    ),
    "languages": (
        language_flags,
        (b"mail-status\n", b"0x7f", b"qube, perl, pyhton", b"127"),
        (
            *sorted(code.encode() for code in languages.CODES),
            *(flag.encode() for flag in languages.FLAGS),
            *(b"\n", b",", b" ", b"\xef\xbb\xbf", b"0x", b"7", b"\xff", b"\xd9\xa1", b"\0"),
        ),
    ),
    "python": (
        python,
        (
            b"import os as o\ndef f(x):\n    o.system('x')\n    raise SystemExit(1)\n",
            b"# -*- coding: latin-1 -*-\nx = '\xe9'\nprint x\n",
        ),
        (
            *(b"def f():", b"class A:", b"\n", b"    ", b"\t", b"(", b")", b"[", b"]", b"{", b"}"),
            *(b"pass", b"import sys", b"from os import system as s", b"sys.exit()", b"lambda: "),
            *(b"f'{x!r:{y}}'", b'"""', b"'", b"\\", b"# coding: utf-7", b"# coding: nonsense"),
            *(b"\0", b"\xff", b"\xef\xbb\xbf", b"not ", b"-" * 200, b"(" * 120, b"1" * 5000),
            *(b"async ", b"await ", b"match x:\n case 1: pass", b"*", b"**", b":=", b"@", b"\x0c"),
            *(
                b"try:\n pass\nfinally:\n pass\n",
                b"x = 1\n",
                b"\\N{DIGIT ONE}",
                b"10 ** 10",
                b"e99",
            ),
        ),
    ),
}
