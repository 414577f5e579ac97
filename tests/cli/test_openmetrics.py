"""What `top` reads of the metrics."""

from __future__ import annotations

import math

import pytest

from agent.cli.openmetrics import Callback, quantile, read

TEXT = r"""# TYPE callback_agent_metrics_timestamp_seconds gauge
callback_agent_metrics_timestamp_seconds 1000.0
# TYPE callback_agent_lookup_duration_seconds histogram
callback_agent_lookup_duration_seconds_bucket{le="1e-05"} 10.0
callback_agent_lookup_duration_seconds_bucket{le="0.001"} 99.0
callback_agent_lookup_duration_seconds_bucket{le="+Inf"} 100.0
callback_agent_lookup_duration_seconds_count 100.0
# TYPE callback_agent_callback_matches counter
callback_agent_callback_matches_total{path="/cb/a.py",trigger="done-job-\"x\\y"} 5.0
callback_agent_callback_matches_total{path="/cb/b.py",trigger="ended-job-self"} 7.0
callback_agent_callback_matches_total{path="/cb/c.py",trigger="never-job-self"} 0.0
# TYPE callback_agent_callback_last_match_timestamp_seconds gauge
callback_agent_callback_last_match_timestamp_seconds{path="/cb/b.py",trigger="ended-job-self"} 990.0
# EOF
"""


def test_the_busiest_callbacks_come_first_and_those_without_a_match_not_at_all() -> None:
    assert read(TEXT, 10).callbacks == [
        Callback(7, 10.0, "/cb/b.py", "ended-job-self"),
        Callback(5, None, "/cb/a.py", r"done-job-\"x\y".replace(r"\"", '"')),
    ]
    assert len(read(TEXT, 1).callbacks) == 1
    assert read("", 10) == ({}, [])


def test_the_latency_is_that_of_the_lookups_since_the_last_reading() -> None:
    now = read(TEXT, 10).buckets
    assert [quantile(q, now, {}) for q in (0.1, 0.5, 0.99, 1.0)] == [1e-5, 1e-3, 1e-3, math.inf]
    before = {1e-5: 10.0, 1e-3: 98.0, math.inf: 98.0}
    assert quantile(0.5, now, before) == 1e-3
    assert quantile(0.99, now, before) == math.inf
    assert quantile(0.5, now, now) is None


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        read('callback_agent_lookup_duration_seconds_bucket{le="1"} many\n', 10)
