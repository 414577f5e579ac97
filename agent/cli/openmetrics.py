"""What `top` shows of the metrics: how long lookups take, and which callbacks match most.

prometheus_client has a reader too. It takes four times as long, and keys would wait for it: there
are three samples for each callback.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BUCKET = "callback_agent_lookup_duration_seconds_bucket"
_MATCHES = "callback_agent_callback_matches_total"
_LAST = "callback_agent_callback_last_match_timestamp_seconds"
_NOW = "callback_agent_metrics_timestamp_seconds"

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


class Callback(NamedTuple):
    """A callback, how often it matched, and how many seconds ago last (None: never)."""

    matches: int
    ago: float | None
    path: str
    trigger: str


Buckets = Mapping[float, float]
"""How many lookups took at most as long, by seconds."""


class Metrics(NamedTuple):
    """The parts of the text that are shown."""

    buckets: Buckets
    #: Those that match most often first.
    callbacks: list[Callback]


def read(text: str, most: int) -> Metrics:
    """Read OpenMetrics text; at most `most` callbacks. Raises ValueError if it has another form."""
    buckets: dict[float, float] = {}
    matches: dict[tuple[str, str], float] = {}
    last: dict[tuple[str, str], float] = {}
    now = 0.0
    for name, labels, value in _samples(text):
        if name == _BUCKET:
            buckets[float(labels["le"])] = value
        elif name == _NOW:
            now = value
        elif name in (_MATCHES, _LAST):
            which = matches if name == _MATCHES else last
            which[labels.get("path", ""), labels.get("trigger", "")] = value
    busiest = heapq.nlargest(most, (item for item in matches.items() if item[1]), lambda i: i[1])
    callbacks = [
        Callback(int(number), max(0.0, now - last[key]) if key in last else None, *key)
        for key, number in busiest
    ]
    return Metrics(buckets, callbacks)


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for name, labels, value in _SAMPLE.findall(text):
        if name in (_BUCKET, _MATCHES, _LAST, _NOW):
            yield (
                name,
                {k: _ESCAPE.sub(_unescape, v) for k, v in _LABEL.findall(labels)},
                float(value),
            )


def _unescape(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


def quantile(share: float, now: Buckets, before: Buckets) -> float | None:
    """The time in seconds within which this share of the lookups since `before` was answered: an
    upper bound of a bucket. None if there were none."""
    counts = sorted((bound, number - before.get(bound, 0)) for bound, number in now.items())
    if not counts or counts[-1][1] <= 0:
        return None
    return next(bound for bound, number in counts if number >= share * counts[-1][1])
