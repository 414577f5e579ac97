"""What is wrong with qb.conf while the agent runs: the last valid settings stay in use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio

from agent import settings
from agent.disk.filesystems import Kind
from agent.reload.qb_conf import QbConf
from agent.settings.host import Host
from agent.timing import DEFAULTS

HOST = Host("linux", 1000, "/home/u", "/")


def qb_conf(first: settings.Settings, read: Callable[[], settings.Settings]) -> QbConf:
    """With the last valid settings `first`."""
    monitor = cast(Any, SimpleNamespace(asking=lambda _: nullcontext()))
    last, watch = cast(Any, first), cast(Any, None)
    return QbConf(first, read, lambda: last, watch, monitor, lambda _: None, DEFAULTS)


def test_settings_are_used_only_of_the_file_that_stayed(tmp_path: Path) -> None:
    """Between two equal looks at qb.conf, it may have been empty, or another one."""
    path = tmp_path / "qb.conf"
    text = b"supervisor_language_flags = 1\n"

    def settings_of(content: bytes | None) -> settings.Settings:
        given = {"qb_conf": settings.Given(str(path), "--qb-conf")}
        return settings.resolve(given, {}, content, HOST)

    async def wait(function: Callable[[], object]) -> object:
        return function()

    async def reads(content: bytes | None) -> settings.Settings | None:
        qb = qb_conf(settings_of(b"supervisor_language_flags = 2\n"), lambda: settings_of(content))
        qb._monitor.wait = wait  # type: ignore[method-assign, assignment]
        qb._watch = cast(
            Any,
            SimpleNamespace(
                is_stalled=lambda _: False, mounts=SimpleNamespace(kind=lambda _: Kind.LOCAL)
            ),
        )
        return await qb.read_until_quiet()

    path.write_bytes(text)
    assert anyio.run(reads, text) == settings_of(text)
    assert anyio.run(reads, b"") is None
    assert anyio.run(reads, text + b"#") is None
    path.unlink()
    assert anyio.run(reads, b"") is None
    path.symlink_to("/dev/null")
    assert anyio.run(reads, b"") == settings_of(b"")


def test_settings_that_cannot_be_used_are_an_error() -> None:
    def fail() -> settings.Settings:
        raise settings.SettingsError("the working directory is gone")

    first = settings.resolve({}, {}, b"", HOST)
    kept, (finding,) = qb_conf(first, fail)._settings_now()
    assert kept is first
    assert (finding.code, finding.severity) == ("bad-settings", "error")
    assert "the working directory is gone" in finding.message


def test_a_qb_conf_that_is_gone_is_an_error() -> None:
    first = replace(settings.resolve({}, {}, b"", HOST), qb_conf_exists=True)
    kept, (finding,) = qb_conf(first, lambda: replace(first, qb_conf_exists=False))._settings_now()
    assert kept is first
    assert (finding.code, finding.severity) == ("qb-conf-lost", "error")
