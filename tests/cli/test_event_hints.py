"""Hints at what was meant by an event that nothing matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.event_hints import hint
from agent.core.event import NAMES, TYPES, Event

MEANT = {
    "failed-job-*": "failed-job-self",
    "Failed-job-self": "failed-job-self",
    "faild-job-self": "failed-job-self",
    "started-job-self": "running-job-self",
    "failure-work-self-7": "failed-work-self-7",
    "failed-job-slef": "failed-job-self",
    "failed-job-Parent": "failed-job-parent",
    "failed-job-self;": "failed-job-self",
    "failed-job-self,": "failed-job-self",
    " failed-job-self": "failed-job-self",
    "\u201cfailed-job-self\u201d": "failed-job-self",
    "FAILED-job-*": "failed-job-self",
    "failed-job-self-1": "failed-job-self",
    "submit-subjob-self-*": "submit-subjob-self-2",
    "dummy-time-self-noon": "dummy-time-self-834567890",
}


@pytest.mark.parametrize(("event", "meant"), MEANT.items())
def test_what_was_meant_is_written_out(event: str, meant: str) -> None:
    text = hint(event)
    assert text is not None
    assert text.startswith(f"did you mean {meant}? ")
    # It is an event, and needs no hint itself.
    Event.from_text(meant)
    assert hint(meant) is None


def test_what_cannot_be_written_out_is_said() -> None:
    assert "--occurred" in (hint("failed-job-self && done-job-self") or "")
    assert "WORK-ID-OR-NAME" in (hint("failed-work-self-*") or "")
    assert "NAME" in (hint("*-job-self") or "")


def test_another_word_for_a_name_is_asked_about() -> None:
    text = "did you mean complete-job-self or done-job-self? finished is not a known event name"
    assert hint("finished-job-self") == text
    assert hint("finished-job-self", ["finished"]) is None


def test_names_of_the_site_are_known() -> None:
    assert hint("publsh-job-self") is None
    assert "publish-job-self" in (hint("publsh-job-self", ["publish"]) or "")
    assert "failed" in (hint("faild-job-self") or "")
    assert hint("faild-job-self", ["faild"]) is None


@given(
    st.sampled_from(sorted(NAMES)),
    st.sampled_from([row for row in TYPES.values() if not row.numbers]),
    st.sampled_from(["self", "parent", "1234", "my-label", "render"]),
)
def test_a_usual_event_has_no_hint(name: str, row: object, context: str) -> None:
    kind, extra = row.name, row.extra  # type: ignore[attr-defined]
    assert hint(f"{name}-{kind}-{context}{'-7' if extra else ''}") is None


@given(st.text(max_size=40))
def test_a_hint_is_one_printable_line(text: str) -> None:
    for event in (text, f"failed-job-{text}", f"{text}-job-self", f"failed-work-self-{text}"):
        found = hint(event)
        assert found is None or found.isprintable()
