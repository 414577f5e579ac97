"""The plan of a callbacks.conf: lines that need no examination are found soon, and rightly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import planning

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
        "*",
        "a.*",
        "",
        "(",
    ]
)
_EVENTS = st.lists(_FIELDS, min_size=2, max_size=5).map("-".join)
_TRIGGERS = st.lists(
    st.one_of(_EVENTS, st.sampled_from([" && ", " || ", "&", ")", "(", " and ", " ", ";", "//"])),
    max_size=7,
).map("".join)
_LINES = st.builds(
    "{} = {}".format, st.sampled_from(["a.py", "b.pl", "c.sh", "a.py b.py", "!a.py"]), _TRIGGERS
)


@given(
    st.lists(st.one_of(_LINES, st.sampled_from(["", "# x = y", "&& done-job-self"])), max_size=9)
)
def test_a_line_that_is_only_glanced_at_has_nothing_to_find(lines: list[str]) -> None:
    data = "\n".join(lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning._Planner, "_glance", lambda *_: (None, None))
        examined = planning.plan(data, "/d/callbacks.conf")
    assert planning.plan(data, "/d/callbacks.conf") == examined
    assert planning.plan(data, "/d/callbacks.conf", examined) == examined
