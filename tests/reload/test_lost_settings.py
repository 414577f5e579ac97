"""What is wrong with qb.conf while the agent runs: the last valid settings stay in use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from agent import settings
from agent.reload.qb_conf import QbConf
from agent.settings.host import Host
from agent.timing import DEFAULTS

HOST = Host("linux", 1000, "/home/u", "/")


def qb_conf(first: settings.Settings, read: Callable[[], settings.Settings]) -> QbConf:
    """With the last valid settings `first`."""
    monitor = cast(Any, SimpleNamespace(asking=lambda _: nullcontext()))
    last, watch = cast(Any, first), cast(Any, None)
    return QbConf(first, read, lambda: last, watch, monitor, lambda _: None, DEFAULTS)


def test_settings_that_cannot_be_used_are_an_error() -> None:
    def fail() -> settings.Settings:
        raise settings.SettingsError("the working directory is gone")

    first = settings.resolve({}, {}, b"", HOST)
    kept, (finding,) = qb_conf(first, fail)._settings_now()
    assert kept is first
    assert (finding.code, finding.severity) == ("bad-settings", "error")
    assert "the working directory is gone" in finding.message


def test_a_qb_conf_that_is_gone_is_an_error() -> None:
    first = replace(settings.resolve({}, {}, b"", HOST), found=True)
    kept, (finding,) = qb_conf(first, lambda: replace(first, found=False))._settings_now()
    assert kept is first
    assert (finding.code, finding.severity) == ("qb-conf-lost", "error")
