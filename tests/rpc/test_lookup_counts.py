"""The cache of results counts each lookup that it answers, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.core.index import Index
from agent.rpc import jsonrpc
from agent.rpc.lookup_cache import LookupCache, NotQuick
from agent.rpc.messages import LookupParams, UnreadLookup
from agent.rpc.question import QUICK_CHARACTERS, BadText
from agent.rpc.results import Counted
from support.indexes import served

INDEX = Index.of(
    1, [served(["done-job-*", "done-job-x && done-job-y", "*-work-self-*", "done-job-x"])]
)
FIRES = {
    "done-job-x": ["1.py", "4.py"],
    "done-job-y": ["1.py"],
    "done-job-3": ["1.py"],
    "done-work-self-1": ["3.py"],
    "submit-work-self-2": ["3.py"],
    "submit-job-self": [],
}
REFUSED = ["no event", "done-job-" + "y" * QUICK_CHARACTERS]
#: Longer than what is stored of parameters, so each is computed again.
LONG = {"occurred": ("done-job-" + "z" * 900,) * 6}

events = st.sampled_from([*FIRES, *REFUSED])
params = st.builds(
    lambda event, code, more: LookupParams(event, code=code, **more),
    events, st.booleans(), st.sampled_from([{}, {}, LONG]),
)  # fmt: skip
steps = st.one_of(st.lists(params, min_size=1, max_size=6), params, st.just("drain"))


def unread(params: LookupParams) -> UnreadLookup:
    return UnreadLookup(jsonrpc="2.0", id=1, params=msgspec.Raw(msgspec.json.encode(params)))


def by_file(counted: Counted) -> Counter[str]:
    found: Counter[str] = Counter()
    for callbacks, number in counted:
        for callback in callbacks:
            found[callback.registration.file] += number
    return found


def expected(answered: Iterable[LookupParams]) -> Counter[str]:
    return Counter(file for one in answered for file in FIRES[str(one.event)])


@given(st.lists(steps, max_size=30), st.sampled_from([2_000, 10_000, 1 << 20]))
def test_each_lookup_that_is_answered_counts_once(
    given: list[list[LookupParams] | LookupParams | str], most: int
) -> None:
    """Alone and together, known and new, too large to be stored, while results are evicted."""
    cache = LookupCache(INDEX, most)
    answered: list[LookupParams] = []
    total, drained = 0, Counter[str]()
    for step in given:
        if step == "drain":
            counted = cache.drain()
            total += sum(number for _, number in counted)
            drained += by_file(counted)
        elif isinstance(step, LookupParams):
            try:
                cache.result(step)
            except (NotQuick, BadText):
                continue
            answered.append(step)
        else:
            assert not isinstance(step, str)
            try:
                responses = cache.responses([unread(one) for one in step], bool)
            except (NotQuick, BadText):
                continue
            assert len(responses) == len(step)
            answered += step
        assert total + cache.counted == len(answered)
    counted = cache.drain()
    assert total + sum(number for _, number in counted) == len(answered)
    assert drained + by_file(counted) == expected(answered)
    assert cache.counted == 0
    assert cache.drain() == []


def test_of_requests_that_are_refused_together_none_counts() -> None:
    cache = LookupCache(INDEX)
    lines = b"".join(
        b'{"jsonrpc":"2.0","id":1,"method":"lookup","params":{"event":"%b"}}\n' % event.encode()
        for event in ("done-job-x", "done-job-y", "no event")
    )
    requests = jsonrpc.read_together([lines])
    assert requests is not None
    for _ in range(2):
        try:
            cache.responses(requests, bool)
        except BadText:
            continue
        raise AssertionError("the last event is refused")
    assert cache.counted == 0
    assert cache.drain() == []


class Asked(dict[Any, Any]):
    """Counts how often something is looked up."""

    count = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.count += 1
        return super().get(key, default)


def test_the_same_parameters_in_a_row_are_found_once() -> None:
    cache = LookupCache(INDEX)
    one, other = (unread(LookupParams(event)) for event in ("done-job-x", "done-job-y"))
    cache.responses([one, other], bool)
    asked = cache._results = Asked(cache._results)
    cache.drain()
    cache.responses([*[one] * 20, *[other] * 9, one], bool)
    assert asked.count == 3
    assert by_file(cache.drain()) == {"1.py": 30, "4.py": 21}
