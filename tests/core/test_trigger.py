"""The trigger language: where a problem is, what to do about it, and the canonical text.

Which events satisfy a trigger is compared with a plain reading in `test_index.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core import trigger
from agent.core.diagnostic import Severity
from agent.core.event import TYPES, Event, EventError, glob
from agent.core.spelling import one_letter_away
from agent.core.term import Term
from agent.core.trigger import MAX_LENGTH, MAX_NESTING, parse, terms
from support.cases import triggers

# Text, severity, code, the column of the trigger (from 1), and a word of the hint.
PROBLEMS = [
    # An event is expected and there is none.
    ("", "error", "empty-trigger", 1, "done-job-self"),
    (" \t ", "error", "empty-trigger", 1, "done-job-self"),
    ("and done-job-self", "error", "trigger-syntax", 1, "event"),
    ("done-job-self or", "error", "trigger-syntax", 15, "event"),
    ("done-job-self &&", "error", "trigger-syntax", 15, "event"),
    ("|| done-job-self", "error", "trigger-syntax", 1, "event"),
    ("a-job-self && || b-job-self", "error", "trigger-syntax", 15, "event"),
    ("a-job-self and and b-job-self", "error", "trigger-syntax", 16, "event"),
    ("()", "error", "trigger-syntax", 2, "event"),
    ("a-job-self && ()", "error", "trigger-syntax", 16, "event"),
    # Parentheses.
    ("(done-job-self", "error", "trigger-syntax", 1, ")"),
    ("a-job-self && ((b-job-self)", "error", "trigger-syntax", 15, ")"),
    ("done-job-self)", "error", "trigger-syntax", 14, "remove"),
    ("(a-job-self)) || b-job-self", "error", "trigger-syntax", 13, "remove"),
    ("a-job-self (b-job-self)", "error", "trigger-syntax", 12, "&&"),
    ("(a-job-self) b-job-self", "error", "trigger-syntax", 14, "&&"),
    ("(" * (MAX_NESTING + 1) + "a-job-self", "error", "too-deep", MAX_NESTING + 1, "remove"),
    ("a" * (MAX_LENGTH + 1), "error", "too-long", MAX_LENGTH + 1, "split"),
    # Events.
    ("done", "error", "not-an-event", 1, "name-type-context"),
    ("a-job-self && done", "error", "not-an-event", 15, "name-type-context"),
    ("-job-self", "error", "empty-field", 1, "name"),
    ("done--self", "error", "empty-field", 6, "types"),
    ("done-job", "error", "empty-field", 9, "self"),
    ("done-job-", "error", "empty-field", 10, "self"),
    ("done-job-self-", "error", "empty-field", 15, "extra"),
    ("done-work-7-", "error", "empty-field", 13, "extra"),
    ("done-jbo-self", "error", "unknown-type", 6, "did you mean job?"),
    ("  done-jbo-self", "error", "unknown-type", 8, "did you mean job?"),
    ("done-Job-self", "error", "unknown-type", 6, "job"),
    ("done-j*b-self", "error", "unknown-type", 6, "types"),
    ("done-frame-self", "error", "unknown-type", 6, "work"),
    ("link-complete-job-1234", "error", "dependency-syntax", 1, "without link-"),
    # Served with a warning.
    ("complte-job-self", "warning", "unknown-name", 1, "did you mean complete?"),
    ("a-job-self && faild-job-self", "warning", "unknown-name", 15, "did you mean failed?"),
    ("DONE-job-self", "warning", "name-case", 1, "done"),
    ("done-work-self", "warning", "never-fires", 1, "done-work-self-*"),
    ("done-work-label", "warning", "never-fires", 1, "done-work-label-*"),
    ("done-job-\\*", "warning", "escaped-star", 10, "*"),
    ("done-job-\\\\*", "warning", "escaped-star", 10, "*"),
    ("done-subjob-self-x", "warning", "not-a-number", 18, "digits"),
    ("dummy-time-self-noon", "warning", "not-a-number", 17, "digits"),
    ("dummy-repeat-self-834567890", "warning", "not-a-number", 19, "interval in seconds"),
    ("globaltime-noon", "warning", "not-a-number", 12, "digits"),
    ("done-job-Self", "warning", "context-case", 10, "self"),
    ("done-job-a & b-job-c", "warning", "single-operator", 12, "&&"),
    ("a-job-self Or b-job-self and c-job-7", "warning", "word-operator", 12, "&&"),
    ("finished-job-self", "warning", "unknown-name", 1, "did you mean complete or done?"),
    ("done-work-7", "warning", "never-fires", 1, "or done-work-self-7"),
    ("done-job-self done", "warning", "suspicious", 15, "what follows self"),
    ("done-job-self-7", "warning", "suspicious", 15, "write done-job-self, or done-work-self-7"),
    ("done-job-7-self", "warning", "suspicious", 12, "write done-job-7, or done-job-self:"),
    ("done-work-self-parent", "warning", "suspicious", 11, "one of them"),
    ("7-job-x", "warning", "suspicious", 1, "in this order"),
    ("globaltime-10000", "warning", "global-trigger", 1, "--globalcallback"),
    ("a-job-self || b-global-*", "warning", "global-trigger", 15, "--globalcallback"),
]


@pytest.mark.parametrize(("text", "severity", "code", "column", "hint"), PROBLEMS)
def test_a_problem_has_a_code_a_column_and_a_hint(
    text: str, severity: str, code: str, column: int, hint: str
) -> None:
    tree, problems = parse(text)
    (problem,) = [p for p in problems if p.code == code]
    assert (problem.severity, problem.column) == (severity, column)
    assert problem.hint is not None
    assert hint in problem.hint
    assert (tree is None) == (severity == "error")


@pytest.mark.parametrize(
    "text",
    [
        *("complete-job-self", "running-job-19294", "complete-subjob-self-2", "done-job-hello"),
        *("complete-job-self && complete-job-parent", "complete-work-self-Initialize"),
        *("dummy-time-self-834567890", "dummy-repeat-self-834567890-3600"),
        *("done-work-self-*", "timeout-subjob-self-*", "done-work-Segment: 1-100-3", "a-job-job A"),
        *("failed-job-self-*", "my-job-self", "done-job-sand || done-job-orchid"),
        "(complete-work-ribgen-1 && complete-work-render-1) || complete-work-composite-1",
        "(" * MAX_NESTING + "a-job-self" + ")" * MAX_NESTING,
    ],
)
def test_a_correct_trigger_has_no_problem(text: str) -> None:
    tree, problems = parse(text)
    assert tree is not None
    assert problems == []


def test_several_problems_of_one_text_are_all_reported() -> None:
    tree, problems = parse("complte-job-self && done-work-self && done-job-\\*")
    assert tree is not None
    assert [p.code for p in problems] == ["unknown-name", "never-fires", "escaped-star"]


HOSTILE = st.text(
    st.sampled_from("-*&|()\\ \t\"'#=,") | st.characters(codec="utf-8") | st.just("\udc80")
)
WORDS = st.lists(
    st.sampled_from(
        [
            *("done", "-", "-", "-", "job", "work", "self", "parent", "7", "007", "*", "**", "\\*"),
            *(" ", " and ", " OR ", "&&", "||", "(", ")", "label", "x", "globaltime-", "link-"),
            *("\u00a0", "\u2028", "é"),
        ]
    ),
    max_size=30,
).map("".join)


@given(HOSTILE | WORDS)
@example("globaltime-")
@example("*-*-*")
@example("\\")
@example("a-job-x and(b-job-y)or")
def test_any_text_is_a_tree_or_an_error_inside_the_text(text: str) -> None:
    tree, problems = parse(text)
    assert (tree is None) == any(p.severity is Severity.ERROR for p in problems)
    for problem in problems:
        assert problem.column is not None
        assert 1 <= problem.column <= len(text) + 1
        assert problem.message
    if tree is not None:
        again, more = parse(str(tree))
        # The canonical text parses to the same tree, and is its own canonical text.
        assert again == tree
        assert str(again) == str(tree)
        assert all(p.severity is not Severity.ERROR for p in more)
        assert list(terms(tree))


@given(HOSTILE | WORDS)
def test_any_text_is_an_event_or_refused_with_a_column_inside_it(text: str) -> None:
    refused: EventError | None = None
    try:
        event = Event.from_text(text)
    except EventError as wrong:
        refused = wrong
    if refused is None:
        assert event.type in TYPES
        assert text.startswith(f"{event.name}-{event.type}-")
    else:
        assert refused.expected
        assert refused.column is not None
        assert 1 <= refused.column <= len(text) + 1


@given(
    st.sampled_from(["done", "my name", "x.y"]),
    st.sampled_from(sorted(TYPES)),
    st.sampled_from(["self", "parent", "7"]),
    st.text(st.characters(codec="utf-8", exclude_characters="*&|()\\"), min_size=1),
)
def test_an_event_written_as_a_trigger_fires_for_itself(
    name: str, kind: str, context: str, extra: str
) -> None:
    text = f"{name}-{kind}-{context}-{extra}"
    tree, _ = parse(text)
    if isinstance(tree, Term) and tree.text == text:
        assert tree.matches(Event.from_text(text))
        assert not tree.matches(Event.from_text(text + "x"))


@given(
    st.lists(st.text(st.sampled_from("ab"), max_size=3), min_size=1, max_size=5),
    st.text(st.sampled_from("ab"), max_size=12),
)
def test_stars_stand_for_any_text(parts: list[str], text: str) -> None:
    def plain(parts: list[str], text: str) -> bool:
        if len(parts) == 1:
            return parts[0] == text
        rest = text.removeprefix(parts[0])
        return text.startswith(parts[0]) and any(
            plain(parts[1:], rest[at:]) for at in range(len(rest) + 1)
        )

    assert glob("*".join(parts), text) == plain(parts, text)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        *(("complte", True), ("completee", True), ("compleet", True), ("cqmplete", True)),
        *(("complete", False), ("compl", False), ("etelpmoc", False), ("compltee", True)),
    ],
)
def test_one_letter_more_less_other_or_two_swapped(word: str, near: bool) -> None:
    assert one_letter_away(word, "complete") == near


@given(triggers())
@example("a-job-self or(b-job-7)AND c-job-x")
def test_operators_in_place_of_words_give_the_same_trigger(text: str) -> None:
    tree, problems = parse(text)
    words = [p for p in problems if p.code == "word-operator"]
    assert len(words) <= 1
    for edit in reversed(words[0].edits if words else ()):
        text = text[: edit.start] + edit.text + text[edit.end :]
    again, left = parse(text)
    assert str(again) == str(tree)
    assert "word-operator" not in [p.code for p in left]


@given(HOSTILE | WORDS | triggers())
def test_a_text_without_parentheses_has_the_tree_that_the_whole_parser_makes(text: str) -> None:
    tree, problems = trigger.parse(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trigger, "_flat", lambda _: None)
        assert trigger.parse(text) == (tree, problems)
