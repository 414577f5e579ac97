"""Every parser takes time and memory linear in its input, however hostile that is.

An input and one four times as large are read in the same run. Linear time grows by four, quadratic
time by sixteen.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from test_match import index

from agent import settings
from agent.core import conf, languages, planning, trigger
from agent.core.conf import read_qb
from agent.core.diagnostic import capped
from agent.core.event import Event, EventError, glob
from agent.core.index import Index, ServedDirectory
from agent.core.quoting import encodable, escape_json, printable, shorten, shown
from agent.core.trigger import parse
from agent.settings.host import Host
from support.conf_lines import read_callbacks
from support.given import by_flag

#: The largest growth that counts as linear: between the factors of linear and quadratic time.
MAX_GROWTH = 8
TIMES = 4
TRIES = 5
#: The input is made larger until it takes this many seconds of processor time. Shorter times are
#: disturbed by the clock and the caches.
MIN_SECONDS = 0.001
MAX_SIZE = 1 << 18

HOST = Host("linux", 1000, "/home/u", "/")


class Parser(NamedTuple):
    run: Callable[[str], object]
    #: The largest input, in characters, if the parser has a limit.
    most: int = MAX_SIZE


def _callbacks(text: str) -> object:
    return read_callbacks(text.encode("utf-8", "surrogateescape"), "f")


def _plan(text: str) -> object:
    return planning.plan(text.encode("utf-8", "surrogateescape"), "f")


def _qb(text: str) -> object:
    return read_qb(text.encode("utf-8", "surrogateescape"), "f", {"a"})


def _qb_conf(text: str) -> object:
    data = f"qb_directory = /q\nsupervisor_universal_callback_path = {text}\n"
    data += f"supervisor_language_flags = {text}\n"
    return settings.resolve({}, {}, data.encode("utf-8", "surrogateescape"), HOST)


def _path(text: str) -> object:
    try:
        return settings.resolve(by_flag({"directories": text}), {"HOME": "/h"}, None, HOST)
    except settings.SettingsError as wrong:
        return wrong


def _trigger(text: str) -> object:
    tree, problems = parse(text)
    if tree is not None:
        str(tree)
        event = Event.from_text("done-job-x-y")
        one = index([text])
        one.lookup(event)
        one.explain(event)
    return problems


def _event(text: str) -> object:
    for event in (f"done-job-{text}", text, f"done-{text}"):
        try:
            Event.from_text(event)
        except EventError as wrong:
            return wrong.message + wrong.expected
    return None


ASKED = index(
    [
        *(
            "done-work-*-x*y*z",
            "done-work-*-*ab*b*",
            "done-work-x*y",
            "done-work-*-x",
            "*-work-*-*",
        ),
        *("done-work-*-x*", "done-work-x-*", "d*e-work-*a*", "done-work-*-*a", "done-work-*a*b*c*"),
    ]
)


COMPOUND = index(["done-job-x*x && done-job-y && done-work-*-* || done-job-a*a*a"])


def _lookup(text: str) -> object:
    event = Event.from_text(f"done-work-{text}-1")
    return ASKED.lookup(event), ASKED.explain(event)


def _occurred(text: str) -> object:
    occurred = [Event.from_text(f"done-job-{part}") for part in text.split("-") if part]
    return COMPOUND.lookup(Event.from_text("done-work-self-1"), occurred)


def _glob(text: str) -> object:
    half = text[: len(text) // 2]
    return glob(f"{half}*{half}*x", text), glob(f"*{half}y*", text), glob("*a*-*" + "a*" * 50, text)


def _language(text: str) -> object:
    code = text.encode("utf-8", "surrogateescape")
    flags = (
        languages.read_flags(text),
        languages.read_flags("," + text),
        languages.language_of(text),
    )
    return flags, languages.check_qube(code), languages.is_enabled("qube", code, frozenset())


def _findings(text: str) -> object:
    lines, _ = read_callbacks(b"", "f")
    found = f"{printable(text)}{encodable(text)}{shorten(text)}{shown(text)}{lines}"
    return found, escape_json(encodable(text).encode())


PARSERS = {
    "callbacks.conf": Parser(_callbacks),
    "plan": Parser(_plan),
    "qb.conf": Parser(_qb),
    "settings of qb.conf": Parser(_qb_conf, settings.MAX_QB_CONF_BYTES // 2),
    "path list": Parser(_path),
    "trigger": Parser(_trigger, trigger.MAX_LENGTH),
    "event": Parser(_event),
    "lookup": Parser(_lookup),
    "occurred": Parser(_occurred),
    "glob": Parser(_glob),
    "language": Parser(_language),
    "finding": Parser(_findings),
}

#: The repeated text, between a beginning and an end.
INPUTS: Mapping[str, tuple[str, str, str]] = {
    "one letter": ("", "x", ""),
    "backslashes": ("done-job-", "\\", "x"),
    "backslashes before a star": ("done-job-", "\\", "*"),
    "backslashes after a star": ("done-job-\\*", "\\", "x"),
    "backslashes and stars": ("done-job-", "\\*\\", ""),
    "a long quote": ('a = "', "x", ""),
    "a quote of escapes": ('a = "', '\\"', '"'),
    "a quote that ends": ('a = "', "x", '"'),
    "quotes": ("a = ", '"', ""),
    "single quotes": ("a = ", "'", ""),
    "lines with quotes": ("", 'a = "x\n', ""),
    "open braces": ("", "a = {\n", ""),
    "open braces in one": ("a = {\n", "{\n", ""),
    "braces with quotes": ("a = {\n", '"\\\n', ""),
    "quotes in a brace": ("a = {", '"', ""),
    "comments": ("", "#\n", ""),
    "a comment": ("a = x ", "#", ""),
    "white space": ("", " ", "x"),
    "white space after": ("a = x", " \t", ""),
    "line feeds": ("", "\n", ""),
    "carriage returns": ("", "\r\n", ""),
    "equals": ("", "=", ""),
    "same settings": ("", "a = b\n", ""),
    "no settings": ("", "x\n", ""),
    "bytes": ("a = ", "\udcff", ""),
    "lines of bytes": ("", "a = \udcff\n", ""),
    "hyphens": ("", "-", ""),
    "hyphens and letters": ("", "a-", "x"),
    "labels": ("done-work-", "a-", "b"),
    "stars": ("done-job-", "a*", ""),
    "only stars": ("done-job-", "*", ""),
    "open parentheses": ("", "(", ""),
    "closed parentheses": ("a-job-b", ")", ""),
    "both parentheses": ("", "()", ""),
    "nested": ("((((((((((", "a-job-b||(c-job-d)&&", "a-job-b))))))))))"),
    "a chain of and": ("", "done-job-x && ", "done-job-y"),
    "a chain of or": ("", "x-job-y* || ", "done-job-y"),
    "a chain of words": ("", "done-job-x and ", "done-job-y"),
    "words": ("", "and ", ""),
    "words that touch": ("", "&&or", ""),
    "no words": ("", "and", ""),
    "unknown names": ("", "Done-jop-x ", ""),
    "warnings": ("", "Done-time-Self-x\\* || ", "a-job-b"),
    "lines of warnings": ("", "a.pl = Done-time-Self-x\\*\n", ""),
    "a line of warnings": ("a.pl = ", "Done-time-Self-x\\* || ", "a-job-b"),
    "single operators": ("done-job-a", " &", " b"),
    "digits": ("done-job-", "1", ""),
    "times": ("done-repeat-self-", "1-", "x"),
    "commas": ("", ",", ""),
    "white space in a trigger cut off": ("a.pl = a-job-#7 && b", " ", "x"),
    "names with commas": ("a.pl = ", "failed,", "a-job-self"),
    "names alone": ("a.pl = ", "failed || ", "a-job-self"),
    "groups of names": ("a.pl = ", "(a,b)-job-self ", ""),
    "marks before a name": ("", "> ", "a.pl = failed-job-self"),
    "entries": ("", "a,", "b"),
    "paths": ("", "/../a", ""),
    "variables": ("", "$QBDIR", ""),
    "variables in a list": ("", "$QBDIR,", ""),
    "slashes": ("", "/", ""),
    "control characters": ("", "\x1b\x9b\u202e", ""),
    "astral": ("", "\U0001f600\U000e0001", ""),
}


def made(name: str, size: int) -> str:
    start, part, end = INPUTS[name]
    return start + part * ((size - len(start) - len(end)) // len(part)) + end


def seconds(run: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    run(text)
    return time.thread_time() - began


@pytest.mark.parametrize("parser", PARSERS)
def test_time_is_linear(parser: str) -> None:
    run, most = PARSERS[parser]
    for name in INPUTS:
        size = 1 << 12
        while size * TIMES * 2 <= most and seconds(run, made(name, size)) < MIN_SECONDS:
            size *= 2
        small, large = made(name, size), made(name, TIMES * size)
        growth = [seconds(run, large) / max(seconds(run, small), MIN_SECONDS / 4)]
        while min(growth) > MAX_GROWTH and len(growth) < TRIES:
            growth.append(seconds(run, large) / max(seconds(run, small), MIN_SECONDS / 4))
        assert min(growth) <= MAX_GROWTH, f"{name}: {TIMES} times {size} characters: {growth}"


#: The most bytes of memory that one byte of input may take at once. A diagnostic takes some
#: hundred, but there are few; a short line with a setting takes some hundred too. What the process
#: did before changes it by a tenth.
MAX_BYTES_A_BYTE = 120
SIZE = 1 << 14


@pytest.mark.parametrize("parser", ["plan", "qb.conf", "settings of qb.conf", "finding"])
@pytest.mark.parametrize(
    "name",
    [
        *("one letter", "a long quote", "a quote that ends", "a quote of escapes"),
        *("braces with quotes", "lines of bytes", "no settings", "same settings", "entries"),
        *("variables in a list", "control characters", "astral", "lines of warnings"),
        "a line of warnings",
    ],
)
def test_memory_is_a_small_multiple_of_the_input(parser: str, name: str) -> None:
    text = made(name, min(PARSERS[parser].most, SIZE))
    tracemalloc.start()
    try:
        PARSERS[parser].run(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_BYTES_A_BYTE * len(text.encode("utf-8", "surrogatepass"))


def test_a_file_of_nothing_but_errors_has_few_findings_and_counts_all() -> None:
    found = list(planning.plan(b"x\n" * 20_000, "f").findings)
    assert sum(f.count for f in found) == 20_000
    assert len(found) == 101
    assert capped(found) == found


def test_an_error_behind_many_warnings_is_reported() -> None:
    text = "".join(f"a.pl = a-job-o'b{number}\n" for number in range(20_000))
    found = planning.plan(text.encode() + b"x\n", "f").findings
    assert found[-2].code == "no-equals"
    assert found[-1].message == "there are 19901 more findings like these"


def test_a_line_may_be_long_but_not_longer_than_any_trigger() -> None:
    text = "x" * trigger.MAX_LENGTH
    long = f'a.pl = "{text}" # '.encode() + b"y" * (conf.MAX_LINE - trigger.MAX_LENGTH - 12)
    lines, found = read_callbacks(long + b"\nb.pl = done-job-self\n#" + long * 9, "f")
    assert (len(lines), found) == (2, [])
    lines, found = read_callbacks(long + b"yyyy\nb.pl = done-job-self\n", "f")
    assert [line.name for line in lines] == ["b.pl"]
    assert [f.code for f in found] == ["line-too-long"]
    assert (found[0].line, found[0].column) == (1, conf.MAX_LINE + 1)


def test_messages_quote_at_most_200_characters() -> None:
    for name in INPUTS:
        text = made(name, 5000)
        for value in (text, f"done-{text}-x", f"{text}-job-x", f"done-time-self-{text}"):
            for problem in parse(value)[1]:
                assert len(problem.message) + len(problem.hint or "") < 600, name
        for finding in (
            *planning.plan(text.encode("utf-8", "surrogateescape"), "f").findings,
            *_found(_qb_conf(text)),
        ):
            assert len(str(finding)) < 900, name
        assert len(str(_path(text))) < 900 or "/" in text or "," in text
        assert len(str(_event(text))) < 900


def _found(read: Any) -> Any:
    return read.findings


def test_an_index_of_long_patterns_is_built_in_linear_time() -> None:
    def build(text: str) -> object:
        return Index.of(1, [ServedDirectory("/d"), *index([text]).served])

    for part in ("a*", "a-", "x-job-a* || "):
        text = "done-job-" + part * 200 + "a-job-b"
        small = min(seconds(build, text) for _ in range(TRIES))
        large = min(seconds(build, "done-job-" + part * 800 + "a-job-b") for _ in range(TRIES))
        assert large <= MAX_GROWTH * max(small, MIN_SECONDS / 4)
