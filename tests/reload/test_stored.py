"""What is stored of a unit tells which triggers need not be parsed again, and hides nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.core import planning
from agent.core.unit import Implementation, Unit
from agent.reload import stored

#: Lines without and with something to find: in the trigger, and in the name.
LINES = st.sampled_from(
    [
        "a.py = done-job-self",
        "a.py = failed-work-lab-7-*",
        "a.py = done-job-sefl",
        "a.py = globaltime-10000",
        "a.py = failed-job-self, killed-job-self",
        "a.py = faild-job-self && done-job-self",
        "a.py = (done-job-a7 && done-job-b7) || done-job-c7",
        "b.pl=done-job-self",
        "b.pl = done-job-self  # text",
        'b.pl = "done-job-self # text"',
        "!c.py = done-job-self",
        "c.sh = done-job-self",
    ]
)


@given(st.lists(LINES), st.lists(LINES))
def test_a_plan_is_the_same_with_what_was_stored(before: list[str], now: list[str]) -> None:
    path = "/d/callbacks.conf"
    plan = planning.plan("\n".join(before).encode(), path)
    unit = Unit(plan.registrations, {name: Implementation.of(b"1") for name in plan.files()})
    data = stored.encode_unit("/d", unit, 7)
    found = stored.decode_unit(data, "/d", lambda _: b"1")
    assert found.unit == unit
    for lines in (before, now, before + now):
        text = "\n".join(lines).encode()
        assert planning.plan(text, path, found.plain) == planning.plan(text, path)


def test_a_plain_trigger_that_was_stored_is_not_parsed_again() -> None:
    text = b"a.py = done-job-self\na.py = failed-job-self\n"
    plan = planning.plan(text, "/d/callbacks.conf")
    unit = Unit(plan.registrations, {"a.py": Implementation.of(b"1")})
    found = stored.decode_unit(stored.encode_unit("/d", unit, 7), "/d", lambda _: b"1")
    again = planning.plan(text, "/d/callbacks.conf", found.plain)
    assert again.registrations[1].trigger is found.unit.registrations[1].trigger
