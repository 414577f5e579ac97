"""One line of callbacks.conf, whatever is in it: what it means, and what is said of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.core import conf, file_names, trigger
from agent.core.conf_lines import examine
from agent.core.correction import MAX_WRITTEN, WRITE, Corrected, merged
from agent.core.diagnostic import Edit, ProblemError, Severity
from agent.core.event import NAMES, SYNONYMS

PARTS = [
    *("n.py", " = ", "=", "failed", "-", "-", "job", "work", "self", "slef", "parent", "*", ".*"),
    *(
        " ",
        ", ",
        "; ",
        " && ",
        " || ",
        " & ",
        "(",
        ")",
        "not ",
        "!",
        "//",
        "#",
        '"',
        "'",
        "\\",
        "{",
    ),
    *("}", "[", "]", "\u201c", "\u2013", "\u00a0", "\u200b", "\ufeff", "\r", "\t", "\0", "\udce9"),
    *("failed-job-self", "killed-job-self", "link-", "globaltime-", "&amp;", ":", "7", "label"),
]
LINES = st.lists(st.sampled_from(PARTS), max_size=20).map("".join)
#: Lines that begin as those that people write.
TRIGGERS = LINES.map(lambda text: f"n.py = {text}")


@given(LINES | TRIGGERS)
@example("n.py = failed\u2013job\u2013self && done-jbo-self")
@example('"n.py": "failed-jbo-self",')
def test_mistakes_never_change_what_a_line_means(line: str) -> None:
    found = examine(line)
    try:
        setting = conf.read_line(line, 1)
    except ProblemError:
        setting = None
        assert any(p.severity is Severity.ERROR for p in found.problems)
    assert found.setting == setting
    if setting is None:
        return
    tree, _ = trigger.parse(setting.value)
    assert found.tree == tree
    loads = tree is not None and file_names.bad_name(setting.name, 0) is None
    assert loads is not any(p.severity is Severity.ERROR for p in found.problems)


@given(LINES | TRIGGERS)
def test_problems_are_inside_the_line_and_all_corrections_are_one(line: str) -> None:
    found = examine(line)
    written = set()
    for problem in found.problems:
        assert problem.column is not None
        assert 1 <= problem.column <= len(line) + 1
        assert problem.length >= 1
        assert problem.edits == ()
        assert problem.hint
        if problem.hint.startswith(WRITE):
            written.add(problem.hint)
            assert problem.hint.isprintable()
            assert len(problem.hint) <= MAX_WRITTEN + len(WRITE)
    assert len(written) <= 1


@given(LINES | TRIGGERS)
@example('n.py = "done-job-self" done')
@example('n.py = "done-job-hero" done')
@example("n.py = faild-job-self done")
@example("n.py = failed-work-self 7-*")
@example("n.py = failed-7-work-self")
def test_nothing_is_wrong_with_a_line_to_write(line: str) -> None:
    for problem in examine(line).problems:
        if problem.hint and problem.hint.startswith(WRITE):
            written = examine(problem.hint.removeprefix(WRITE))
            assert [p for p in written.problems if p.code != "not-utf-8"] == []


EVENTS = st.builds(
    lambda name, kind, rest: f"{name}-{kind}-{rest}",
    st.sampled_from(["done", "failed", "complete", "published", "qc_passed", "*"]),
    st.sampled_from(["job", "work"]),
    st.sampled_from(
        [
            *(
                "self-*",
                "parent-*",
                "7-*",
                "my label-1",
                "job A-*",
                "a, b-1",
                "it's-2",
                "Segment: 1-9",
            ),
            *('the "hero" shot-1', "shot.0101.exr-1", "C:/renders/1-1", "left & right eye-1"),
            *(
                "R&D-1",
                "caf\u00e9-1",
                "a + b-1",
                "selfmade B-1",
                "what?-1",
                "[A]-2",
            ),
        ]
    ),
)


@given(st.lists(EVENTS, min_size=1, max_size=4), st.sampled_from([" && ", " || "]))
def test_a_legal_label_is_not_suspicious(events: list[str], operator: str) -> None:
    found = examine(f"n.py = {operator.join(events)}")
    assert [p for p in found.problems if p.code == "suspicious"] == []


@given(st.text(max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.text())))
def test_what_an_edit_leaves_is_found_where_it_was(
    text: str, places: list[tuple[int, int, str]]
) -> None:
    edits = merged(
        Edit(min(at, len(text)), min(at + size, len(text)), new) for at, size, new in places
    )
    corrected = Corrected(text, edits)
    for offset, character in enumerate(corrected.text):
        before = corrected.before(offset)
        assert 0 <= before <= len(text)
        inside = any(e.start <= before < e.end or e.start == before for e in edits)
        assert inside or text[before] == character


@pytest.mark.parametrize(
    "line",
    [
        'n.py = "done-job-self" done',
        'n.py = "done-job-hero" done',
        "n.py = done-job-self retry.pl",
        "n.py = retry.pl done-job-self",
        "n.py = done-job-hero retry.pl",
        "n.py = failed-work-7",
        "n.py = failed-work-hero",
        "n.py = finished-job-self",
        "n.py = finished-job-self, faild-job-self",
        "n.py = failed-self-parent",
        "notify failed-job-self",
        "failed-job-hero runs n.py",
        "<<<<<<< HEAD",
        "=======",
        ">>>>>>> topic = 1",
        "||||||| 1a2b3c4",
    ],
)
def test_where_only_a_person_knows_what_was_meant_no_line_is_given(line: str) -> None:
    found = examine(line)
    assert found.problems
    assert found.written is None
    assert not any((p.hint or WRITE).startswith(WRITE) for p in found.problems)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("failed-work-7-self", "failed-work-self-7"),
        ("failed-work-*-parent", "failed-work-parent-*"),
        ("failed-work-Initialize-self", "failed-work-self-Initialize"),
        ("failed-7-work-self", "failed-work-self-7"),
        ("failed-subjob-2-self", "failed-subjob-self-2"),
        ("failed-work-self 7", "failed-work-self-7"),
        ("failed-work-self:*", "failed-work-self-*"),
        ("self-job-failed", "failed-job-self"),
        ("job-self-failed", "failed-job-self"),
        ("self-failed-work-7", "failed-work-self-7"),
        ("7-job-failed", "failed-job-7"),
    ],
)
def test_fields_in_another_order_are_put_in_order(wrong: str, right: str) -> None:
    found = examine(f"n.py = {wrong}")
    assert found.written == f"{WRITE}n.py = {right}"


@pytest.mark.parametrize("word", sorted(SYNONYMS))
def test_another_word_for_a_name_is_asked_about_and_never_replaced(word: str) -> None:
    assert NAMES.issuperset(SYNONYMS[word])
    (found,) = examine(f"n.py = {word}-job-self").problems
    assert (found.code, found.column) == ("unknown-name", 8)
    assert found.hint == f"did you mean {' or '.join(SYNONYMS[word])}?"


@pytest.mark.parametrize(
    ("line", "code", "hint"),
    [
        ("n.py = done-work-#7-*", "empty-field", 'write: n.py = "done-work-#7-*"'),
        (
            "n.py = a-job-b && c-work-#7-* || d-job-e # f",
            "empty-field",
            'write: n.py = "a-job-b && c-',
        ),
        ("n.py = done-work-self-#7", "empty-field", "write done-work-self-7, or the value in"),
        ("n.py = failed-work-self-# any", "empty-field", "write what belongs there, and a space"),
        ("n.py = a-job-self &#38;&#38; b-job-self", "suspicious", "write: n.py = a-job-self &&"),
    ],
)
def test_a_trigger_that_goes_on_after_a_number_sign(line: str, code: str, hint: str) -> None:
    (problem,) = examine(line).problems
    assert problem.code == code
    assert (problem.hint or "").startswith(hint)


@pytest.mark.parametrize("line", ["n.py = done-job-self# mail", "n.py = done-job-self #-", "#-#"])
def test_a_comment_is_not_the_rest_of_a_trigger(line: str) -> None:
    assert examine(line).problems == ()


def test_names_of_the_site_are_not_dropped() -> None:
    (problem,) = examine("n.py = published,approved-job-self").problems
    assert problem.hint == "write: n.py = (published-job-self || approved-job-self)"
