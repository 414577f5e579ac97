"""The alert rules for Prometheus, with its own tool where that is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.core.diagnostic import CODES
from agent.core.index import Index
from support.documents import ROOT
from support.indexes import served
from support.metrics import measured

RULES = ROOT / "scripts" / "callback-agent.rules.yml"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (package prometheus)"
)

#: For each alert: minutes from one measurement to the next, what is measured, and after how many
#: minutes the alert must fire. One measurement before, it is silent.
CASES: dict[str, tuple[int, dict[str, str], int]] = {
    "CallbackAgentMissing": (1, {}, 5),
    # Written until minute 10. So it is more than 120 s old at minute 13, and a minute later still.
    "CallbackAgentStale": (
        1,
        {"callback_agent_metrics_timestamp_seconds": "0+60x10 600x60"},
        14,
    ),
    "CallbackAgentHeld": (1, {'callback_agent_held_directories{reason="error"}': "0 1x60"}, 6),
    "CallbackAgentDirectoryLost": (
        1,
        {'callback_agent_held_directories{reason="fault"}': "0 2x60"},
        6,
    ),
    "CallbackAgentSettingsLost": (
        1,
        {'callback_agent_findings{code="qb-conf-lost",severity="error"}': "_ 1x60"},
        6,
    ),
    "CallbackAgentDegraded": (1, {'callback_agent_state{state="degraded"}': "0 1x60"}, 16),
    # At minute 1 for the first time, and then for an hour.
    "CallbackAgentWarnings": (
        1,
        {'callback_agent_findings{code="unknown-name",severity="warning"}': "_ 1x90"},
        61,
    ),
    "CallbackNotMatched": (
        24 * 60,
        {
            'callback_agent_callback_counted_since_timestamp_seconds{path="a"}': "0x100",
            'callback_agent_callback_last_match_timestamp_seconds{path="a"}': "_ 86400x100",
        },
        92 * 24 * 60,
    ),
}


def test_the_rules_name_what_there_is() -> None:
    text = b"".join(measured(Index.of(1, [served(["done-job-*"])])).text(0)).decode()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    used = set(re.findall(r"callback_agent_\w+", RULES.read_text()))
    assert {name.removesuffix("_bucket") for name in used} <= names
    assert set(re.findall(r"qb-conf-\w+", RULES.read_text())) <= set(CODES)


@needs_promtool
def test_the_rules_are_valid() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", RULES], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@needs_promtool
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_is_due(alert: str, tmp_path: Path) -> None:
    interval, series, minutes = CASES[alert]
    samples = "".join(
        f"      - series: '{name}'\n        values: '{values}'\n" for name, values in series.items()
    )

    def done(minute: int) -> Any:
        return subprocess.run(
            ["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True
        )

    for minute, fires in ((minutes - interval, False), (minutes, True)):
        (tmp_path / "test.yml").write_text(
            f"rule_files: ['{RULES}']\nevaluation_interval: {interval}m\ntests:\n"
            f"  - interval: {interval}m\n    input_series:\n{samples or '      []'}\n"
            f"    alert_rule_test:\n      - eval_time: {minute}m\n        alertname: {alert}\n"
        )
        # Without `exp_alerts`, the tool expects none.
        assert (done(minute).returncode != 0) == fires, done(minute).stdout
