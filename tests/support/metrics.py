"""What the metrics of an agent say."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from agent.core.index import Index
from agent.server.lookups import Lookups
from agent.server.matches import Matches
from agent.server.metrics import Metrics
from support.agents import Agent

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values, by name and labels."""


def samples(families: Iterable[Metric]) -> Samples:
    """All samples. None comes twice, which the parsers do not look at."""
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def of(agent: Agent) -> Samples:
    """The metrics that the pipe gives."""
    parse: Any = text_string_to_metric_families  # the library has no types for it
    return samples(parse(agent.call("metrics")["text"]))


def value(found: Samples, name: str, **labels: Any) -> float | None:
    """One value, by its name without the prefix; None if there is none."""
    return found.get((f"callback_agent_{name}", tuple(sorted(labels.items()))))


def matches(found: Samples) -> dict[tuple[str, str], float]:
    """How often each callback matched, by the name of its file and its trigger."""
    counts = {}
    for (name, labels), number in found.items():
        if name == "callback_agent_callback_matches_total":
            named = dict(labels)
            counts[named["path"].rpartition("/")[2], named["trigger"]] = number
    return counts


def measured(index: Index) -> Metrics:
    """Metrics of an index, without an agent."""
    records = SimpleNamespace(
        listeners=[], recorder=SimpleNamespace(findings=(), held={"/d": "error"})
    )
    reloader: Any = SimpleNamespace(index=index, state="degraded", records=records, swapped=[])
    return Metrics(reloader, Lookups(index, Matches()))
