"""How the agent's figures grow with callbacks, connections and directories.

Each series changes one of the three. Its points are measured in one run, in turns, each on an agent
of its own. A row is one quantity at one point, beside the smallest point of its series.
"""

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial

from bench import edits
from bench.agents import Agent, Client
from bench.directories import Conf, Directories, write_generated
from bench.generator import Sample, Shape
from bench.measure import DISTINCT, KNOWN, SIXTEEN, Bench, in_turns
from bench.process import cpu_share, resident, settle
from bench.report import Row

# What is measured at each point: title and unit.
QUANTITIES = {
    "known": ("time of a lookup, event asked before", "us"),
    "new": ("time of a lookup, event never asked before", "us"),
    "memory": ("resident memory after lookups", "MB"),
    "edit": ("edit by rename until it is served, p50", "ms"),
    "idle": ("CPU when nothing happens, of one core", "%"),
}
SERIES = {
    "callbacks": (10, 1_000, 100_000),
    "connections": (1, 100, 1_000),
    "directories": (1, 20, 200),
}
# Callbacks in the series of the others, and the fewest code files of a point.
CALLBACKS = 1_000
FILES = 6
# Rounds and edits: fewer than for the table, because there are nine points.
ROUNDS = 3
EDITS = 50
# Open files that 1,101 connections and all else need.
DESCRIPTORS = 4096


@dataclass(frozen=True)
class Point:
    """Where a series is measured: what is served, and over how many connections."""

    directories: Directories
    load: Shape  # all its connections ask, each one thing at a time
    open: int = 1  # connections that stay open while memory, edits and CPU are measured


@dataclass(frozen=True)
class Place:
    """The place of a row in the plot."""

    series: str
    count: int
    quantity: str

    @property
    def row(self) -> str:
        """The name of the row."""
        return f"growth-{self.series}-{self.count}-{self.quantity}"


def places(series: str) -> list[Place]:
    """The places of a series, quantity by quantity, from the smallest point to the largest."""
    return [Place(series, count, quantity) for quantity in QUANTITIES for count in SERIES[series]]


def callbacks_grow(bench: Bench) -> list[Row]:
    """10 and 1,000 callbacks in one directory, 100,000 in a hundred."""
    points = [
        Point(_served(bench, count, directories), SIXTEEN)
        for count, directories in zip(SERIES["callbacks"], (1, 1, 100), strict=True)
    ]
    return _rows(bench, "callbacks", points)


def connections_grow(bench: Bench) -> list[Row]:
    """1 to 1,000 connections, on 1,000 callbacks in one directory."""
    # Those of all points are open at once, here and in one more process.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
    points = [
        Point(_served(bench, CALLBACKS, 1), Shape(count), count) for count in SERIES["connections"]
    ]
    return _rows(bench, "connections", points)


def directories_grow(bench: Bench) -> list[Row]:
    """1,000 callbacks in 1 to 200 directories."""
    points = [Point(_served(bench, CALLBACKS, count), SIXTEEN) for count in SERIES["directories"]]
    return _rows(bench, "directories", points)


def _served(bench: Bench, callbacks: int, directories: int) -> Directories:
    """Callbacks on a hundredth as many files, and at least some."""
    files = max(FILES, callbacks // 100, directories)
    return write_generated(bench.new_folder("dir"), callbacks, files, directories)


def _rows(bench: Bench, series: str, points: Sequence[Point]) -> list[Row]:
    counts = SERIES[series]
    taken = _measured(bench, points, {p.quantity for p in places(series) if p.row in bench.wanted})
    rows = []
    for place in places(series):
        if place.quantity not in taken:
            continue
        title, unit = QUANTITIES[place.quantity]
        number = counts.index(place.count)
        smallest, ours = taken[place.quantity][0], taken[place.quantity][number]
        rows.append(
            Row(
                place.row, f"{title}, {series}: {place.count:,}", unit, ours,
                smallest if number else [], f"our own with {counts[0]}" if number else "",
                detail={"growth": asdict(place)},
            )
        )  # fmt: skip
    return rows


def _measured(
    bench: Bench, points: Sequence[Point], wanted: set[str]
) -> dict[str, list[list[float]]]:
    """The figures of each point for each quantity that is wanted."""
    taken: dict[str, list[list[float]]] = {}
    with ExitStack() as stack:
        agents = [stack.enter_context(bench.agent(point.directories)) for point in points]
        pids = [each.pid for each in agents]
        # What memory is after lookups, so they are made for it too.
        if wanted & {"known", "new", "memory"}:
            for quantity, question in (("known", KNOWN), ("new", DISTINCT)):
                loads = [
                    partial(bench.generator.run, each.server(question), point.load)
                    for each, point in zip(agents, points, strict=True)
                ]
                rounds = in_turns(min(ROUNDS, bench.effort.rounds), loads)
                taken[quantity] = [[_microseconds(one) for one in point] for point in rounds]
        clients = [
            stack.enter_context(_open(each, point.open))
            for each, point in zip(agents, points, strict=True)
        ]
        settle(*pids)
        taken["memory"] = [[resident(pid) / 1e6] for pid in pids]
        # Before the edits: after one, the agent looks for changes more often for some seconds.
        if "idle" in wanted:
            shares = cpu_share(pids, bench.effort.idle_seconds)
            taken["idle"] = [[100 * share] for share in shares]
        if "edit" in wanted:
            taken["edit"] = _edits(bench, points, clients)
    return {quantity: figures for quantity, figures in taken.items() if quantity in wanted}


def _microseconds(load: Sample) -> float:
    return 1e6 / load.per_second


@contextmanager
def _open(started: Agent, count: int) -> Iterator[Client]:
    """The first of `count` connections, each of which was answered once and stays open."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            clients.append(started.client())
            stack.callback(clients[-1].close)
            clients[-1].ask("lookup", **KNOWN.params)
        yield clients[0]


def _edits(bench: Bench, points: Sequence[Point], clients: Sequence[Client]) -> list[list[float]]:
    """The median of each point's edits, in milliseconds."""
    with ExitStack() as stack:
        legs = []
        for point, client in zip(points, clients, strict=True):
            conf = Conf(point.directories.paths[0])
            stack.callback(conf.restore)  # others may measure with it
            legs.append(edits.until_served(conf, client))
        taken = edits.interleaved(legs, min(EDITS, bench.effort.edits))
    return [[edits.at_share(each, 0.5)] for each in taken]


MEASUREMENTS: dict[Callable[[Bench], list[Row]], tuple[str, ...]] = {
    measure: tuple(place.row for place in places(series))
    for series, measure in (
        ("callbacks", callbacks_grow),
        ("connections", connections_grow),
        ("directories", directories_grow),
    )
}
