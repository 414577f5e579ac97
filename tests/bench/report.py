"""The rows of the table, how a goal is judged, and how both are printed."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import msgspec

from bench.process import BenchError

Figures = Sequence[float]


@dataclass(frozen=True)
class Goal:
    """A bound for a row's ratio or, where there is no other to compare with, for our figure."""

    relation: Literal["<=", ">="]
    limit: float
    of: Literal["ratio", "ours"] = "ratio"


@dataclass(frozen=True)
class Row:
    """One line of the table: our figures, one for each round, beside the other's."""

    name: str
    title: str
    unit: str
    ours: Figures
    other: Figures  # empty where the other is not installed, or where there is none
    against: str
    goal: Goal | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Median of ours over the median of the other, where that is more than nothing."""
        other = median(self.other) if self.other else 0.0
        return median(self.ours) / other if other else None

    @property
    def spread(self) -> float | None:
        """Our highest figure less the lowest, as a share of the median; None of a single one."""
        middle = median(self.ours)
        return (max(self.ours) - min(self.ours)) / middle if middle and self.ours[1:] else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or nothing to compare with."""
        judged = median(self.ours) if self.goal and self.goal.of == "ours" else self.ratio
        if self.goal is None or judged is None:
            return None
        if self.goal.relation == "<=":
            return judged <= self.goal.limit
        return judged >= self.goal.limit

    def as_json(self) -> dict[str, Any]:
        """The row with the figures of every round."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "ours": median(self.ours),
            "other": median(self.other) if self.other else None,
            "against": self.against,
            "ratio": self.ratio,
            "spread": self.spread,
            "goal": vars(self.goal) if self.goal else None,
            "reached": self.reached,
            "rounds": {"ours": list(self.ours), "other": list(self.other)},
            "detail": self.detail,
        }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def machine_line(measured_on: Mapping[str, Any]) -> str:
    """The machine in one line."""
    form = (
        "{cores} cores, {processor}, Linux {kernel}, Python {python}, load before {load_before:.2f}"
    )
    return form.format(**measured_on)


@dataclass(frozen=True)
class Report:
    """The figures of one run, as --json prints them and --from reads them."""

    machine: dict[str, Any]
    quick: bool
    missing: list[dict[str, str]]  # programs to compare with that are not installed
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        """The report with the figures of every round."""
        return vars(self) | {"rows": [row.as_json() for row in self.rows]}


# A figure that can be printed and drawn: no measurement is larger.
Figure = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


class _Machine(msgspec.Struct):
    cores: int
    processor: str
    kernel: str
    python: str
    load_before: Figure


class _Rounds(msgspec.Struct):
    ours: Annotated[list[Figure], msgspec.Meta(min_length=1)]
    other: list[Figure]


class _Place(msgspec.Struct, forbid_unknown_fields=True):
    series: str
    count: Annotated[int, msgspec.Meta(ge=1, le=10**9)]
    quantity: str


class _Cpu(msgspec.Struct):
    generator: Figure
    server: Figure


class _Detail(msgspec.Struct):
    """What is shown of a row's detail."""

    growth: _Place | msgspec.UnsetType = msgspec.UNSET
    cpu: dict[str, _Cpu] | msgspec.UnsetType = msgspec.UNSET


class _SavedRow(msgspec.Struct):
    rounds: _Rounds
    detail: _Detail


class _Saved(msgspec.Struct):
    """What --json prints, as far as a `Report` does not say it."""

    machine: _Machine
    rows: list[_SavedRow]


def read(file: Path) -> Report:
    """The report in a file that --json printed. BenchError where it does not hold one."""
    try:
        text = file.read_bytes()
        msgspec.json.decode(text, type=_Saved)
        report = msgspec.json.decode(text)
        # What a row computes from its rounds is not read.
        rows = [row | row["rounds"] for row in report["rows"]]
        return msgspec.convert(report | {"rows": rows}, Report)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BenchError(
            f"{file} was not read ({reason}); expected what scripts/bench --json prints"
        ) from error


def together(reports: Sequence[Report]) -> Report:
    """The rounds of several runs as those of one; all else is that of the first."""
    rows: dict[str, Row] = {}
    for row in chain.from_iterable(report.rows for report in reports):
        if before := rows.get(row.name):
            ours, other = [*before.ours, *row.ours], [*before.other, *row.other]
            rows[row.name] = replace(before, ours=ours, other=other)
        else:
            rows[row.name] = row
    return replace(reports[0], rows=list(rows.values()))


def table(rows: Sequence[Row]) -> str:
    """The rows as plain text."""
    heads = ("row", "", "ours", "other", "unit", "against", "ratio", "spread", "goal", "reached")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    right = {2, 3, 6, 7}
    lines = []
    for line in cells:
        padded = (
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def loads(rows: Sequence[Row]) -> str:
    """The CPU of load generator and server in each row that has it: who was the bottleneck."""
    lines = ["CPU during the load, cores (generator / server): the fuller of the two is the limit"]
    for row in rows:
        shares = row.detail.get("cpu")
        if shares:
            parts = (
                f"{who} {share['generator']:.2f} / {share['server']:.2f}"
                for who, share in shares.items()
            )
            lines.append(f"  {row.name}: " + ", ".join(parts))
    return "\n".join(lines) if len(lines) > 1 else ""


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    reached = {True: "yes", False: "NO", None: ""}[row.reached]
    return (
        row.name,
        row.title,
        number(median(row.ours)),
        number(median(row.other)) if row.other else "-",
        row.unit,
        row.against,
        f"{ratio:.2f}" if ratio is not None else "-",
        f"{row.spread:.0%}" if row.spread is not None else "-",
        _goal(row),
        reached,
    )


def _goal(row: Row) -> str:
    if row.goal is None:
        return "shown"
    unit = " x" if row.goal.of == "ratio" else f" {row.unit}"
    return f"{row.goal.relation} {row.goal.limit:g}{unit}"


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
