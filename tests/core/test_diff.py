"""Which events fire differently: those whose results differ, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core.diff import fires_differently
from agent.core.event import Event
from agent.core.index import Index
from support import indexes

EVENTS = ("done-job-self", "failed-job-self", "done-work-self-1", "killed-job-parent")
TRIGGERS = st.lists(
    st.sampled_from(
        [
            *EVENTS,
            *("*-job-self", "done-work-self-*", "done-job-self && failed-job-self"),
            "done-job-self || killed-job-parent",
        ]
    ),
    max_size=5,
    unique=True,
)


@given(TRIGGERS, TRIGGERS)
def test_events_are_reported_whose_results_differ(old: list[str], new: list[str]) -> None:
    before, after = (Index.of(1, [indexes.served(triggers)]) for triggers in (old, new))
    events = [(text, Event.from_text(text)) for text in EVENTS]
    found = {one.event: one for one in fires_differently(before, after, events)}
    for text, event in events:
        results = []
        for index in (before, after):
            match = index.lookup(event)
            results.append(
                [
                    *((c.path, c.registration.text, None) for c in match.callbacks),
                    *((c.path, c.registration.text, str(rest)) for c, rest in match.partial),
                ]
            )
        assert (text in found) == (results[0] != results[1])
        if text in found:
            one = found[text]
            assert [(f.path, f.trigger, f.missing) for f in one.old] == results[0]
            assert [(f.path, f.trigger, f.missing) for f in one.new] == results[1]
