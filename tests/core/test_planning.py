"""The plan of a callbacks.conf: lines that need no examination are found soon, and rightly."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core import conf_lines, habits, planning, trigger, unit, usual
from agent.core.diagnostic import Problem
from agent.core.event import NAMES, TYPES

_FIELDS = st.sampled_from(
    [
        "failed",
        "done",
        "faild",
        "job",
        "work",
        "jbo",
        "self",
        "slef",
        "7",
        "lab el",
        "lab 7",
        "done_job",
        'a"b',
        "a # b",
        "or",
        "*",
        "a.*",
        "",
        "(",
        "subjob",
        "parent",
        "007",
        "sel*",
        "**",
        "v1.2",
        "self 2",
        "v and w",
    ]
)
_EVENTS = st.lists(_FIELDS, min_size=2, max_size=5).map("-".join)
#: Texts that are nearly all events of Qube, as files hold them.
#: Words of a context, label or extra, with everything between them that a usual trigger may have.
_JOINED = st.lists(
    st.tuples(
        st.sampled_from(["self", "parent", "7", "lab", "x1", "*", "slef", "b.py", "and", "done"]),
        st.sampled_from(["-", "-", ".", " "]),
    ),
    min_size=1,
    max_size=4,
).map(lambda words: "".join(word + between for word, between in words)[:-1])
_USUAL = st.builds(
    "{}-{}-{}".format,
    st.sampled_from(sorted(NAMES)),
    st.one_of(st.sampled_from(["job", "work"]), st.sampled_from(sorted(TYPES))),
    st.one_of(_EVENTS, _JOINED),
)
_TRIGGERS = st.lists(
    st.one_of(
        _EVENTS, _USUAL, st.sampled_from([" && ", " || ", "&", ")", "(", " and ", " ", ";", "//"])
    ),
    max_size=7,
).map("".join)
_LINES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["a.py", "b.pl", "c.sh", "a.py b.py", "!a.py", "a\rb.py"]),
    st.sampled_from([" = ", " = ", " = ", "=", " =  "]),
    st.one_of(_TRIGGERS, _USUAL),
)


def plan_with_all_examined(data: bytes) -> unit.Plan:
    """The plan of a callbacks.conf of which no line is only glanced at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(habits, "_EVENT_OF_WORDS", re.compile("(?!)"))
        patch.setattr(habits, "_EVENTS", re.compile("(?!)"))
        patch.setattr(trigger, "_flat", lambda _: None)
        patch.setattr(usual, "parse", lambda _: None)
        return planning.plan(data, "/d/callbacks.conf")


@given(
    st.lists(st.one_of(_LINES, st.sampled_from(["", "# x = y", "&& done-job-self"])), max_size=9)
)
@example(["a.py = ", "a.py = assigned-job-self self"])
def test_a_line_that_is_only_glanced_at_has_nothing_to_find(text: list[str]) -> None:
    data = "\n".join(text).encode()
    examined = plan_with_all_examined(data)
    assert planning.plan(data, "/d/callbacks.conf") == examined
    assert planning.plan(data, "/d/callbacks.conf", examined) == examined


@pytest.mark.parametrize("kind", TYPES)
def test_no_event_is_taken_unexamined_that_has_a_finding(kind: str) -> None:
    """A finding about some events that `usual.parse` takes is missed on all lines but the first."""
    contexts = ("self", "parent-*", "7", "self-7", "lab", "lab-7", "*-*")
    lines = [f"a.py = {name}-{kind}-{context}" for name in sorted(NAMES) for context in contexts]
    data = "\n".join(["a.py = done-job-other", *lines]).encode()
    found, examined = planning.plan(data, "/d/callbacks.conf"), plan_with_all_examined(data)
    missed = [each for each in examined.findings if each not in found.findings]
    assert missed == [], "agent/core/usual.py must leave the trigger of such a line to trigger.py"
    assert found == examined


@given(
    st.one_of(
        _USUAL,
        st.lists(
            st.one_of(_USUAL, st.sampled_from(["done-job-self", "failed-work-lab-7-*"])),
            min_size=2,
            max_size=3,
        ).flatmap(
            lambda events: st.permutations(["{} && {}", "({} || {})", "{} || ({} && {})"]).map(
                lambda forms: forms[0].format(*events, *events)
            )
        ),
    )
)
def test_a_usual_trigger_is_what_the_whole_reader_makes_of_it_without_a_problem(text: str) -> None:
    tree = usual.parse(text)
    if tree is not None:
        assert (tree, []) == trigger.parse(text)
        assert str(tree) == text
        assert habits.in_value(text, trigger.term_places, False) == []


#: What follows name and type in usual triggers, and in some that are not.
_PLACES = (
    *("self", "parent", "*", "7", "007", "lab", "lab 7", "self-*", "parent-7", "*-*", "7-7"),
    *("7-1-2", "7-self", "self-parent", "lab-7", "lab-*", "lab-self", "lab-7-parent", "self done"),
    *("7 done", "self-7 done", "selfie", "slef", "self.foo", "parent.7-3", "lab.self", "7.1"),
)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_every_usual_trigger_is_one_that_the_examination_finds_nothing_in(kind: str) -> None:
    """A new finding about a usual event must be known to `usual.py`, or no line gets it."""
    for name in NAMES:
        for place in _PLACES:
            text = f"{name}-{kind}-{place}"
            if (tree := usual.parse(text)) is not None:
                found = conf_lines.examine(f"n.py = {text}")
                assert (found.tree, found.problems) == (tree, ()), text


@pytest.mark.parametrize(
    "text",
    [
        "done-job-self",
        "failed-work-self-*",
        "failed-job-render 12",
        "done-work-shot7-frame-*",
        "running-subjob-comp7-44",
        "done-job-007",
        "complete-job-sim7 && complete-job-cache7",
        "(done-work-a7-1 && done-work-b7-1) || failed-job-c7",
        "(done-job-self || failed-job-self) && done-job-12",
    ],
)
def test_what_files_usually_hold_is_read(text: str) -> None:
    assert usual.parse(text) is not None


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"\0", "holds nothing but NUL bytes", "restore it from a copy"),
        (bytes(4096), "holds nothing but NUL bytes", "restore it from a copy"),
        ("a.py = x\n".encode("utf-16-le"), "is UTF-16", "save it as UTF-8"),
        ("\n".encode("utf-16-le"), "is UTF-16", "save it as UTF-8"),
    ],
)
def test_a_file_of_nul_bytes_is_not_taken_for_utf_16(data: bytes, message: str, hint: str) -> None:
    (found,) = planning.plan(data, "/d/callbacks.conf").findings
    assert (found.code, found.line, found.column) == ("not-utf-8", 1, 1)
    assert message in found.message
    assert str(found.hint).startswith(hint)


def test_nul_bytes_behind_the_lines_are_one_finding() -> None:
    """As a power failure leaves them in a file that was just written."""
    (found,) = planning.plan(b"a.py = done-job-self\n" + bytes(5000), "/d/callbacks.conf").findings
    assert (found.code, found.line, found.column) == ("no-equals", 2, 1)
    assert "nothing but NUL bytes" in found.message
    assert "write: " not in str(found.hint)


USUAL = [
    *("done-job-self", "failed-work-lab-7-*", "failed-job-render 7", "complete-job-1234"),
    *("done-job-a && done-job-b", "done-job-a || failed-job-b || killed-job-c"),
    "(done-work-a-1 && done-work-b-1) || failed-job-c",
]


def test_a_usual_line_is_not_examined_and_a_known_trigger_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examined, parsed = list[str](), list[str]()
    examine, parse = conf_lines.examine, trigger.parse

    def counted_examine(line: str, number: int) -> conf_lines.Examined:
        examined.append(line)
        return examine(line, number)

    def counted_parse(text: str) -> tuple[trigger.Trigger | None, list[Problem]]:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(conf_lines, "examine", counted_examine)
    monkeypatch.setattr(trigger, "parse", counted_parse)
    data = "".join(f"f{n}.py = {t}\n" for t in USUAL for n in range(3)).encode()
    plan = planning.plan(data, "/d/callbacks.conf")
    assert plan.findings == ()
    # A name is examined once.
    assert examined == [f"f{n}.py = {USUAL[0]}" for n in range(3)]
    parsed.clear()
    assert planning.plan(data, "/d/callbacks.conf", plan) == plan
    assert parsed == []


def test_a_trigger_on_two_lines_is_not_written_out_while_something_is_wrong_with_it() -> None:
    text = b"n.py = failed-job-self ||\n  finished-job-self\n"
    found = planning.plan(text, "/d/callbacks.conf").findings
    assert [(f.code, f.line) for f in found] == [("trigger-syntax", 1), ("no-equals", 2)]
    assert [f.hint for f in found] == ["write all of it on this line", "remove this line"]
