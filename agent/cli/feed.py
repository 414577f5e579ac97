"""What `top` knows of the agent: asked again and again, also after the agent was gone."""

from __future__ import annotations

import contextlib
import time
from collections import deque

from agent import client
from agent.cli import openmetrics
from agent.cli.rendering import JsonObject

#: Seconds between two questions, and the most that one may take.
INTERVAL = 1.0
#: Records that are kept to be shown.
MAX_RECORDS = 100
#: Callbacks that are shown at most.
MAX_CALLBACKS = 20
#: Metrics take long if there are many callbacks. They are asked for again after the time that the
#: last answer took, times this.
METRICS_PAUSE = 20


class Feed:
    """The newest status, metrics and records of one agent. `gone` is why it does not answer."""

    def __init__(self, pipe: str | None) -> None:
        self._paths = [pipe] if pipe else client.default_paths()
        self._client: client.Client | None = None
        self._records: client.Subscription | None = None
        self._asked = self._metrics_due = 0.0
        self._has_metrics = True
        self.status: JsonObject = {}
        #: The callbacks that match most often; empty if the agent has no metrics.
        self.callbacks: list[openmetrics.Callback] = []
        #: How long the newest lookups took: the seconds within which half of them were answered,
        #: and 99 %. None before any.
        self.latency: tuple[float, float] | None = None
        self._buckets: openmetrics.Buckets = {}
        #: Newest last.
        self.records: deque[JsonObject] = deque(maxlen=MAX_RECORDS)
        self.gone = "not asked yet"

    def close(self) -> None:
        """Close all connections."""
        for connection in (self._client, self._records):
            if connection is not None:
                connection.close()
        self._client = self._records = None

    def update(self) -> bool:
        """Take the records that have come, and ask for the rest if it is time. Whether there is
        something new."""
        try:
            new = self._take_records()
            if time.monotonic() - self._asked < INTERVAL:
                return new
            self._asked = time.monotonic()
            self._ask()
            self.gone = ""
        except client.AgentError as error:
            self.gone = str(error)
            self._asked = time.monotonic()
            self.close()
        return True

    def _take_records(self) -> bool:
        new = False
        if self._records is not None:
            with contextlib.suppress(client.TimedOut):
                while True:
                    record = self._records.next(0)
                    if record not in self.records:
                        self.records.append(record)
                        new = True
        return new

    def _ask(self) -> None:
        if self._client is None or self._records is None:
            self._connect()
        assert self._client is not None
        self.status = self._client.status()
        began = time.monotonic()
        if self._has_metrics and began >= self._metrics_due:
            try:
                self._read(self._client.call("metrics")["text"])
            except client.Refused:
                self._has_metrics = False  # The agent is older.
            now = time.monotonic()
            self._metrics_due = now + METRICS_PAUSE * (now - began)

    def _read(self, text: str) -> None:
        """Take from the metrics what is shown."""
        buckets, self.callbacks = openmetrics.read(text, MAX_CALLBACKS)
        half, most = (openmetrics.quantile(q, buckets, self._buckets) for q in (0.5, 0.99))
        if half is not None and most is not None:
            self.latency = half, most
        self._buckets = buckets

    def _connect(self) -> None:
        """Connect to the first agent that answers. Raises AgentError."""
        missing = []
        for path in self._paths:
            try:
                # Before the history: no record is lost between them, though one may come twice.
                self._records = client.Subscription(path, INTERVAL, restart=0.0)
                self._client = client.Client(path, INTERVAL)
                self.records.clear()
                self.records.extend(self._client.history(MAX_RECORDS)["records"])
                self._has_metrics = True
                self._metrics_due = 0.0
                self._buckets = {}
                return
            except client.NoAgent as error:
                self.close()
                missing.append(str(error))
        raise client.NoAgent("; ".join(missing))
