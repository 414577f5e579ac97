"""When a record is about a directory that stays held."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import example, given
from hypothesis import strategies as st

from agent.core import record_event

NAMES = st.sampled_from(["a", "b", "ab"])
PATHS = st.lists(NAMES, max_size=4).map(lambda names: "/" + "/".join(names))
EVENTS = st.sampled_from(["started", "reloaded", "held", "restored", "stopped"])


@example("reloaded", False, {"/cb"}, ["/cb/sub/callbacks.conf"])
@example("reloaded", False, {"/cb/sub"}, ["/cb/sub/callbacks.conf"])
@given(EVENTS, st.booleans(), st.sets(PATHS), st.lists(PATHS))
def test_it_is_so_if_something_in_one_was_touched(
    event: str, changes: bool, held: set[str], touched: list[str]
) -> None:
    # The directory of a file is the nearest one: another above it may be held too.
    inside = any(
        PurePosixPath(directory) in (PurePosixPath(path), PurePosixPath(path).parent)
        for path in touched
        for directory in held
    )
    again = inside and event in ("reloaded", "restored")
    assert record_event.is_held_again(event, held, touched) == again
    word = record_event.word(event, changes, held, touched)
    assert word == ("still held" if again and event == "reloaded" and not changes else event)
