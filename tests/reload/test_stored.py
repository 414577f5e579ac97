"""A unit is stored and read again as it was accepted, whatever is in its callbacks.conf."""

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


@given(st.lists(LINES), st.lists(LINES), st.booleans())
def test_what_is_stored_is_what_was_accepted(before: list[str], now: list[str], held: bool) -> None:
    path = "/d/callbacks.conf"
    text = "\n".join(before).encode()
    plan = planning.plan(text, path)
    # Where a directory is held at its first reading, only some of its lines are accepted.
    lines = plan.registrations[1:] if held else plan.registrations
    code = {r.file: Implementation.of(b"1") for r in lines}
    contents = {digest(text): text, Implementation.of(b"1").digest: b"1"}
    unit = Unit(lines, code, conf=text)
    data = stored.encode_unit("/d", unit, 7, digest(text))
    found = stored.decode_unit(data, "/d", contents.__getitem__)
    assert (found.unit, found.unit.conf, found.plan) == (unit, text, plan)
    # Without the text, or with another, it is the same unit.
    for other in (None, digest("\n".join(now).encode())):
        contents[str(other)] = "\n".join(now).encode()
        data = stored.encode_unit("/d", unit, 7, other)
        assert stored.decode_unit(data, "/d", contents.__getitem__).unit == unit


def digest(text: bytes) -> str:
    return Implementation.of(text).digest
