"""The rows as the tables of agent/manual/performance.md."""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.growth import QUANTITIES, SERIES, Place
from bench.report import Row, number

# The rows of the manual's table, in its order: what each is called there, and its reference.
MANUAL = {
    "one": ("lookups per second, 1 connection", "Redis"),
    "sixteen": ("16 connections, one request at a time", "Redis"),
    "p99": ("16 connections, p99 latency", "Redis"),
    "pipelined": ("16 connections, 16 requests pipelined", "Redis"),
    "distinct": ("no event asked twice", "Redis, one key,"),
    "objects": ("the same, each event an object with its owner", "Redis, one key,"),
    "edited": ("p99 while edited 20 times a second", "agent, quiet,"),
    "edited-medium": ("the same with 10,000 callbacks", "agent, quiet,"),
    "edited-large": ("the same with 100,000 callbacks", "agent, quiet,"),
    "scale": ("time of a lookup, 100,000 callbacks", "agent, 10 callbacks,"),
    "edit-p50": ("edit by rename until it is served, p50", "watchman's message"),
    "edit-p99": ("the same, p99", "watchman's message"),
    "edit-medium-p50": ("edit by rename, 10,000 callbacks, p50", "agent, 10 callbacks,"),
    "start": ("start to first answer, 100,000 callbacks", "reading and hashing"),
    "idle": ("processor when nothing happens", "watchman"),
    "idle-20": ("the same with 20 directories", ""),
    "memory": ("memory, the example directory", ""),
    "memory-burst": ("memory after lookups of 20,000 events each", "agent, before,"),
    "memory-callback": ("memory for each further callback", ""),
}


def tables(rows: Sequence[Row]) -> str:
    """Those of the rows that the manual shows; then the growth rows, a line for each point."""
    compared = {row.name: row for row in rows if row.name in MANUAL}
    grown = {
        Place(**row.detail["growth"]): number(median(row.ours))
        for row in rows
        if "growth" in row.detail
    }
    points = []
    for series, counts in SERIES.items():
        for count in counts:
            cells = [grown.get(Place(series, count, each), "-") for each in QUANTITIES]
            if set(cells) != {"-"}:
                points.append((f"{series}: {count:,}", *cells))
    heads = [f"{quantity}, {unit}" for quantity, (_, unit) in QUANTITIES.items()]
    parts = []
    if compared:
        lines = [_compared(compared[name]) for name in MANUAL if name in compared]
        parts.append(_table(("row", "agent", "reference", "ratio"), lines))
    if points:
        parts.append(_table(("", *heads), points))
    return "\n\n".join(parts)


def _compared(row: Row) -> tuple[str, ...]:
    title, reference = MANUAL[row.name]
    unit = "" if row.unit == "/s" else f" {row.unit}"
    other = f"{reference} {number(median(row.other))}{unit}" if row.other else ""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return title, f"{number(median(row.ours))}{unit}", other, ratio


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (heads, *lines)]
    return "\n".join([rows[0], "|---" * len(heads) + "|", *rows[1:]])
