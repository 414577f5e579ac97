"""The times of `--since` and `--until`."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

import click

from agent.core.quoting import shown

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_CLOCK = re.compile(r"\d\d?:\d\d(:\d\d)?")

EXPECTED = (
    "03:00 (the last time that it was 3 o'clock), 2h, 30m or 2d (ago), 2026-11-27,"
    ' "2026-11-27 03:00" or 2026-11-27T03:00:00Z'
)


def parse(text: str, now: datetime) -> datetime:
    """The time that a person means, in whole seconds. Without a zone it is local time.

    `now` has a time zone. Raises ValueError.
    """
    if match := _AGO.fullmatch(text):
        return (now - timedelta(**{_UNITS[match[2]]: int(match[1])})).replace(microsecond=0)
    if _CLOCK.fullmatch(text):
        clock = time.fromisoformat(text.zfill(5) if text.count(":") == 1 else text.zfill(8))
        then = datetime.combine(now.date(), clock).astimezone()
        if then > now:
            then = datetime.combine(now.date() - timedelta(days=1), clock).astimezone()
        return then
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.astimezone()).replace(microsecond=0)


def convert(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """The value of an option. Raises click.BadParameter."""
    if text is None:
        return None
    try:
        return parse(text, datetime.now().astimezone())
    except (ValueError, OverflowError, OSError):
        message = f"{shown(text)!r} is not a time; write {EXPECTED}"
        raise click.BadParameter(message) from None
