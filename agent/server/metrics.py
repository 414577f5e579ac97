"""The metrics: what is measured of a running agent, as OpenMetrics or as Prometheus text.

`Metrics.text` runs in a worker thread. The names follow https://prometheus.io/docs/practices/naming.
They are public: dashboards and alerts are written against them (`manual/metrics.md`).
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from agent import __version__
from agent.core.unit import BEING_WRITTEN, ERROR, FAULT, UNSAFE
from agent.reload.checks import NOT_CHECKED
from agent.reload.record import HELD, RELOADED, RESTORED, STARTED
from agent.reload.reloader import Reloader
from agent.server.histogram import Histogram
from agent.server.lookups import Lookups

if TYPE_CHECKING:
    from prometheus_client import Metric

#: Upper bounds of the durations of reloads, in seconds. Most take a few milliseconds.
RELOAD_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0)
#: The reasons for which a directory may be held. Each has a sample, so that an alert can
#: distinguish 0 from no value.
REASONS = (ERROR, FAULT, UNSAFE, BEING_WRITTEN, NOT_CHECKED)
#: The events of records that end a reload.
EVENTS = (STARTED, RELOADED, HELD, RESTORED)
#: Callbacks of which the samples are made at once.
_CHUNK = 250

_PREFIX = "callback_agent"


class _Head(msgspec.Struct):
    """What is counted of a record."""

    event: str
    duration_ms: float


_decode_head = msgspec.json.Decoder(_Head).decode


class Metrics:
    """Everything that is measured. Made in the event loop."""

    def __init__(self, reloader: Reloader, lookups: Lookups) -> None:
        self._reloader = reloader
        self._lookups = lookups
        self._began = time.time()
        #: When the generation last changed, in seconds since the epoch, and what it was then.
        self._changed = self._began
        self._generation = reloader.index.generation
        self._reloads = dict.fromkeys(EVENTS, 0)
        self._reload_durations = Histogram(RELOAD_BOUNDS)
        reloader.swapped.append(self._count_change)
        reloader.records.listeners.append(self._count_record)

    def _count_change(self) -> None:
        # An index also changes where a directory is newly held.
        if self._reloader.index.generation != self._generation:
            self._generation = self._reloader.index.generation
            self._changed = time.time()

    def _count_record(self, record: bytes) -> None:
        # The summary, since a record may have 100,000 changes.
        head = _decode_head(self._reloader.records.newest_summary(self._reloader.index))
        if head.event in self._reloads:
            self._reloads[head.event] += 1
            self._reload_durations.observe(head.duration_ms / 1000)

    def text(self, clients: int, openmetrics: bool = True) -> Iterator[bytes]:
        """The text, in pieces of some 100 KB. Without `openmetrics` it is in the older Prometheus
        format, which the node exporter reads.

        `clients` is how many are connected. What is counted is as of the last `Lookups.collect`.
        All together may take seconds where there are 100,000 callbacks.
        """
        # Imported late: it takes 4 MB, and most agents are never asked.
        from prometheus_client import exposition
        from prometheus_client.openmetrics import exposition as openmetrics_exposition

        write = (
            openmetrics_exposition.generate_latest if openmetrics else exposition.generate_latest
        )
        before = ""
        for family in self._families(clients):
            text = write(_Only(family)).removesuffix(b"# EOF\n")
            if family.name == before:
                # The samples of one family follow each other below one heading.
                while text.startswith(b"# "):
                    text = text.partition(b"\n")[2]
            before = family.name
            yield text
        if openmetrics:
            yield b"# EOF\n"

    def _families(self, clients: int) -> Iterator[Metric]:
        """All families of metrics. One with many samples comes in several parts."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value=value)

        def gauges(
            name: str, text: str, labels: Iterable[str], values: Iterable[tuple[list[str], float]]
        ) -> Metric:
            family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=list(labels))
            for labelled, value in values:
                family.add_metric(labelled, value)
            return family

        def histogram(name: str, text: str, durations: Histogram) -> Metric:
            counts = durations.cumulative()
            bounds = [*map(str, durations.bounds), "+Inf"]
            buckets = list(zip(bounds, counts, strict=True))
            return HistogramMetricFamily(f"{_PREFIX}_{name}", text, buckets, durations.sum)

        reloader, recorder = self._reloader, self._reloader.records.recorder
        index, state, now = reloader.index, reloader.state, time.time()
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily(f"{_PREFIX}_build", "The agent's version, and Python's.", build)
        yield gauge(
            "metrics_timestamp_seconds",
            "When these metrics were made. An old time in a file means that nobody writes it.",
            now,
        )
        yield gauge("start_time_seconds", "When the agent started.", self._began)
        yield gauges(
            "state",
            "1 for the state that the agent is in, as the command status shows it.",
            ["state"],
            [([one], float(one == state)) for one in ("ok", "degraded")],
        )
        reasons = Counter(dict.fromkeys(REASONS, 0))
        reasons.update(recorder.held.values())
        yield gauges(
            "held_directories",
            "Directories that are held: the last accepted callbacks are served.",
            ["reason"],
            [([reason], number) for reason, number in reasons.items()],
        )
        findings = Counter[tuple[str, str]]()
        for finding in recorder.findings:
            findings[finding.severity.value, finding.code] += finding.count
        yield gauges(
            "findings",
            "Current findings.",
            ["severity", "code"],
            [([*labels], number) for labels, number in sorted(findings.items())],
        )
        yield gauge("directories", "Callback directories that are listed.", len(index.served))
        enabled = sum(callback.enabled for callback in index.callbacks())
        yield gauges(
            "callbacks",
            "Callbacks that are served; enabled is false where the language is off.",
            ["enabled"],
            [(["true"], enabled), (["false"], index.count - enabled)],
        )
        yield gauge("generation", "Accepted indexes since the start.", index.generation)
        yield gauge(
            "last_change_timestamp_seconds",
            "When a change of what is served was last accepted.",
            self._changed,
        )
        reloads = CounterMetricFamily(
            f"{_PREFIX}_reloads",
            "Records of reloads, by event: held are those that newly hold a directory.",
            labels=["event"],
        )
        for event, number in self._reloads.items():
            reloads.add_metric([event], number)
        yield reloads
        yield histogram(
            "reload_duration_seconds",
            "From when a reload begins until its record is made.",
            self._reload_durations,
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_lookups",
            "Lookups that were answered. Those that were refused do not count.",
            value=self._lookups.collected,
        )
        yield histogram(
            "lookup_duration_seconds",
            "From when lookups are read until their responses are written. Estimated: one turn of"
            " the event loop in 17 is measured, and counts 17 times.",
            self._lookups.durations,
        )
        yield gauge("clients", "Clients that are connected.", clients)

        def parts() -> Iterator[list[tuple[list[str], int, float | None, float]]]:
            rows = self._lookups.matches.rows(index, now)
            while part := [
                ([c.path, c.registration.text], count.matches, count.last, count.since)
                for c, count in islice(rows, _CHUNK)
            ]:
                yield part

        labels = ["path", "trigger"]
        for part in parts():
            family = CounterMetricFamily(
                f"{_PREFIX}_callback_matches", "Lookups in which a callback fires.", labels=labels
            )
            for names, matches, _, _ in part:
                family.add_metric(names, matches)
            yield family
        for part in parts():
            yield gauges(
                "callback_last_match_timestamp_seconds",
                "When a callback last fired in a lookup; nothing for one that never did.",
                labels,
                [(names, last) for names, _, last, _ in part if last is not None],
            )
        for part in parts():
            yield gauges(
                "callback_counted_since_timestamp_seconds",
                "Since when the matches of a callback are counted.",
                labels,
                [(names, since) for names, _, _, since in part],
            )


class _Only:
    """A registry of one family, for the functions that write one."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
