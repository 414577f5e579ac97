"""The measurements: each function gives the rows of one comparison, made in interleaved rounds."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from bench import edits, peers
from bench.agents import MARK, Agent, Question, agent
from bench.directories import Conf, Directories, patterns, write_example, write_generated
from bench.generator import Generator, Sample, Server, Shape
from bench.process import BenchError, cpu_seconds, settle
from bench.report import Goal, Row

ONE = Shape()
SIXTEEN = Shape(connections=16)
PIPELINED = Shape(connections=16, depth=16)
# Far below what the agent can do, so that what is felt are its pauses and not its limit.
PACED = Shape(connections=16, rate=2000.0)

KNOWN = Question({"event": "done-job-self"}, "mail-status.qcb")
# Another event each time.
DISTINCT = Question({"event": f"complete-work-self-frame-{MARK}"}, "checkWork.pl")
_JOB = {"id": 482913, "label": "comp", "pid": 482900, "pgrp": 482900}
# The same in the form of objects, of a job that owns its callbacks itself.
OBJECTS = Question(
    {
        "event": {"name": "complete", "type": "work", "extra": f"frame-{MARK}", "job": _JOB},
        "owner": _JOB,
    },
    "checkWork.pl",
)
# An event that each of the patterns `x*i*y` may match and none does.
PATTERN = Question({"event": f"done-work-self-x-{MARK}-y"}, "checkWork.pl")

EDITS_A_SECOND = 20

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """How much is measured. The quick one only shows that everything runs."""

    rounds: int
    seconds: float
    warm_up: float
    edits: int
    idle_seconds: float
    starts: int
    large: int  # callbacks of the large directories: 100 to a file, 10 files to a directory
    medium: int
    patterns: int
    bursts: int
    occurred: int  # objects in each lookup of a burst


FULL = Effort(5, 1.5, 0.2, 200, 10.0, 5, 100_000, 10_000, 1000, 3, 20_000)
QUICK = Effort(1, 0.15, 0.05, 3, 0.5, 1, 2_000, 400, 100, 1, 500)


class Bench:
    """What the measurements share: the run's folder, the effort, the names of the rows that are
    wanted, the load generator."""

    def __init__(self, folder: Path, effort: Effort, wanted: Sequence[str]) -> None:
        self.folder = folder
        self.effort = effort
        self.wanted = wanted
        self.missing = set(peers.missing())
        self.generator = Generator(folder, effort.seconds, effort.warm_up)
        self._numbers = itertools.count(1)

    def new_folder(self, kind: str) -> Path:
        """A folder for one use. All names of one kind are equally long, and so are answers."""
        path = self.folder / f"{kind}{next(self._numbers):03d}"
        path.mkdir()
        return path

    def example(self, more: tuple[str, ...] = ()) -> Directories:
        """A new example directory."""
        return write_example(self.new_folder("dir"), more)

    def ten(self) -> Directories:
        """A new directory with 10 callbacks."""
        return write_generated(self.new_folder("dir"), 10, 6, 1)

    @cached_property
    def medium(self) -> Directories:
        """10,000 callbacks in 20 directories."""
        return write_generated(self.new_folder("dir"), self.effort.medium, 200, 20)

    @cached_property
    def large(self) -> Directories:
        """100,000 callbacks on 1,000 files in 100 directories."""
        return write_generated(self.new_folder("dir"), self.effort.large, 1000, 100)

    @contextmanager
    def agent(self, directories: Directories) -> Iterator[Agent]:
        """An agent that has done what it does after its start."""
        with agent(self.folder, directories) as started:
            settle(started.pid)
            yield started

    def rounds(self, shape: Shape, *servers: Server) -> list[list[Sample]]:
        """Ask the servers in turns; the samples of each."""
        return in_turns(
            self.effort.rounds,
            [partial(self.generator.run, server, shape) for server in servers],
        )


def in_turns(rounds: int, parties: Sequence[Callable[[], T]]) -> list[list[T]]:
    """A B A B: what each party gave in each round."""
    results: list[list[T]] = [[] for _ in parties]
    for _ in range(rounds):
        for result, party in zip(results, parties, strict=True):
            result.append(party())
    return results


def _cpu(**samples: Sequence[Sample]) -> dict[str, object]:
    """Medians of the CPU shares, for a row's detail."""
    shares = {
        who: {
            "generator": median(sample.generator_cpu for sample in taken),
            "server": median(sample.server_cpu for sample in taken),
        }
        for who, taken in samples.items()
        if taken
    }
    return {"cpu": shares}


def _per_second(samples: Sequence[Sample]) -> list[float]:
    return [sample.per_second for sample in samples]


def _p99(samples: Sequence[Sample]) -> list[float]:
    return [sample.p99 for sample in samples]


def _each(samples: Sequence[Sample]) -> list[float]:
    """Time for one lookup of a server that is asked as fast as it answers, in microseconds."""
    return [1e6 / sample.per_second for sample in samples]


# ---- lookups beside redis ----


def _against_redis(
    bench: Bench, shape: Shape, question: Question
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Samples of the agent, of redis where it is installed, and of the bare echo."""
    with ExitStack() as stack:
        ours = stack.enter_context(bench.agent(bench.example())).server(question)
        echo = stack.enter_context(peers.echo(bench.new_folder("echo"), ours.request))
        if "redis-server" in bench.missing:
            mine, floor = bench.rounds(shape, ours, echo)
            return mine, [], floor
        folder = bench.new_folder("redis")
        redis = stack.enter_context(peers.redis(folder, length(ours.answer)))
        mine, other, floor = bench.rounds(shape, ours, redis, echo)
        return mine, other, floor


def length(answer: bytes) -> int:
    """Length of an answer with its number in place of the mark."""
    return len(answer) + 6


def _lookup_rows(
    bench: Bench, name: str, title: str, shape: Shape, goal: float
) -> tuple[list[Row], list[Sample], list[Sample]]:
    ours, redis, echo = _against_redis(bench, shape, KNOWN)
    rows = [
        Row(
            name, f"lookups/s, {title}", "/s", _per_second(ours), _per_second(redis),
            "redis GET, equally long", Goal(">=", goal), _cpu(agent=ours, redis=redis, echo=echo),
        ),
        Row(
            f"echo-{name}", "  floor: a bare echo on the same event loop", "/s",
            _per_second(ours), _per_second(echo), "bare echo",
        ),
    ]  # fmt: skip
    return rows, ours, redis


def one(bench: Bench) -> list[Row]:
    """One connection, one request at a time."""
    return _lookup_rows(bench, "one", "1 connection, one at a time", ONE, 1.0)[0]


def sixteen(bench: Bench) -> list[Row]:
    """16 connections, one request at a time each."""
    title = "16 connections, one at a time each"
    rows, ours, redis = _lookup_rows(bench, "sixteen", title, SIXTEEN, 0.85)
    p99 = Row(
        "p99", "p99 latency at 16 connections", "us", _p99(ours), _p99(redis),
        "redis GET, equally long", Goal("<=", 1.3),
    )  # fmt: skip
    return [*rows, p99]


def pipelined(bench: Bench) -> list[Row]:
    """16 connections, 16 requests in flight on each."""
    title = "16 connections, 16 pipelined"
    return _lookup_rows(bench, "pipelined", title, PIPELINED, 0.85)[0]


def distinct(bench: Bench) -> list[Row]:
    """No event twice: nothing that the agent could have kept from before."""
    title = "16 connections, no event asked twice"
    return [_new_events(bench, "distinct", title, DISTINCT, 0.55)]


def objects(bench: Bench) -> list[Row]:
    """No event twice, each an object with its owner, as a supervisor writes what it knows."""
    title = "the same, each event an object with its owner"
    return [_new_events(bench, "objects", title, OBJECTS, 0.45)]


def _new_events(bench: Bench, name: str, title: str, question: Question, goal: float) -> Row:
    ours, redis, _ = _against_redis(bench, SIXTEEN, question)
    return Row(
        name, f"lookups/s, {title}", "/s", _per_second(ours), _per_second(redis),
        "redis GET, one key", Goal(">=", goal), _cpu(agent=ours, redis=redis),
    )  # fmt: skip


# ---- lookups while files are edited ----


def _while_edited(bench: Bench, server: Server, shape: Shape, conf: Conf) -> Sample:
    """A run of the load generator, while `conf` is edited 20 times a second."""
    before = cpu_seconds(server.pid)
    began = time.monotonic()
    load = bench.generator.start(server, shape)
    number = 0
    while load.poll() is None and time.monotonic() < began + bench.generator.limit:
        number += 1
        conf.prepare(edits.new_line(number)[0])
        conf.swap()
        time.sleep(max(0.0, began + number / EDITS_A_SECOND - time.monotonic()))
    share = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
    return bench.generator.finish(load, share, server.name)


def _edited_rows(bench: Bench, name: str, directories: Directories, goal: float) -> list[Row]:
    conf = Conf(directories.paths[0])
    count = f"{directories.callbacks:,} callbacks"
    rows = []
    with bench.agent(directories) as started:
        server = started.server(KNOWN, changing=True)
        generation = _generation(started)
        for shape, suffix, title in (
            (SIXTEEN, "", "16 connections"),
            (PACED, "-paced", f"{PACED.rate:,.0f} asked a second, from when due"),
        ):
            edited, quiet = in_turns(
                bench.effort.rounds,
                [
                    partial(_while_edited, bench, server, shape, conf),
                    partial(_after_edits, bench, server, shape, conf, started),
                ],
            )
            rows.append(
                Row(
                    name + suffix, f"p99 while edited 20 times a second, {title}, {count}", "us",
                    _p99(edited), _p99(quiet), "our own when quiet", Goal("<=", goal),
                    _cpu(edited=edited, quiet=quiet),
                )
            )  # fmt: skip
        reloads = _generation(started) - generation
    if reloads < bench.effort.rounds * 2:
        raise BenchError(f"only {reloads} reloads while files were edited: nothing was measured")
    rows[0].detail["reloads"] = reloads
    return rows


def _after_edits(bench: Bench, server: Server, shape: Shape, conf: Conf, started: Agent) -> Sample:
    """A run of the load generator with no edits, once the last one is served."""
    conf.restore()
    settle(started.pid)
    return bench.generator.run(server, shape)


def _generation(started: Agent) -> int:
    client = started.client()
    generation = client.ask("status")["generation"]
    client.close()
    assert isinstance(generation, int)
    return generation


def edited(bench: Bench) -> list[Row]:
    """Lookups go on while files are edited: few callbacks."""
    return _edited_rows(bench, "edited", bench.ten(), 2.0)


def edited_medium(bench: Bench) -> list[Row]:
    """Lookups go on while files are edited: a site with many shows."""
    return _edited_rows(bench, "edited-medium", bench.medium, 2.0)


def edited_large(bench: Bench) -> list[Row]:
    """Lookups go on while files are edited: many callbacks."""
    return _edited_rows(bench, "edited-large", bench.large, 3.0)


# ---- edit to served ----


def edit(bench: Bench) -> list[Row]:
    """An edit by rename: served by us, told by watchman, told by the kernel."""
    effort = bench.effort
    small, medium = bench.ten(), bench.medium
    with ExitStack() as stack:
        first = stack.enter_context(bench.agent(small))
        second = stack.enter_context(bench.agent(medium))
        conf, other = Conf(small.paths[0]), Conf(medium.paths[0])
        stack.callback(other.restore)  # others measure with it
        legs = {
            "agent": edits.until_served(conf, first.client()),
            "medium": edits.until_served(other, second.client()),
        }
        if "watchman" not in bench.missing:
            told = peers.watchman(bench.new_folder("w"), small.paths[0])
            legs["watchman"] = edits.until_message(conf, stack.enter_context(told))
        if "inotifywait" not in bench.missing:
            notices = peers.Notices(small.paths[0])
            stack.callback(notices.close)
            legs["kernel"] = edits.until_notice(conf, notices)
        taken = dict(zip(legs, edits.interleaved(list(legs.values()), effort.edits), strict=True))

    def at(who: str, share: float) -> list[float]:
        return [edits.at_share(taken[who], share)] if who in taken else []

    title = "edit by rename until a lookup shows it"
    count = {"edits": effort.edits}
    larger = f"the same, {medium.callbacks:,} callbacks in {len(medium.paths)} directories"
    ten = f"our own with {small.callbacks}"
    message = "watchman's message"
    agent50, agent99 = at("agent", 0.5), at("agent", 0.99)
    return [
        Row("edit-p50", f"{title}, p50", "ms", agent50, at("watchman", 0.5), message,
            Goal("<=", 0.5), count),
        Row("edit-p99", f"{title}, p99", "ms", agent99, at("watchman", 0.99), message,
            Goal("<=", 0.6), count),
        Row("kernel-p50", "  floor: the kernel's bare notification, p50", "ms", agent50,
            at("kernel", 0.5), "inotifywait", None, count),
        Row("kernel-p99", "  floor: the kernel's bare notification, p99", "ms", agent99,
            at("kernel", 0.99), "inotifywait", None, count),
        Row("edit-medium-p50", f"{larger}, p50", "ms", at("medium", 0.5), agent50, ten,
            Goal("<=", 1.2), count),
        Row("edit-medium-p99", f"{larger}, p99", "ms", at("medium", 0.99), agent99, ten,
            Goal("<=", 1.2), count),
    ]  # fmt: skip


# ---- scale ----


def scale(bench: Bench) -> list[Row]:
    """A lookup's time with many callbacks beside its time with 10."""
    rows = []
    large = bench.large
    with bench.agent(bench.ten()) as few, bench.agent(large) as many:
        for name, question, title in (
            ("scale", KNOWN, "time of a lookup"),
            ("scale-distinct", DISTINCT, "time of a lookup, no event asked twice"),
        ):
            ours, base = bench.rounds(PIPELINED, many.server(question), few.server(question))
            rows.append(
                Row(
                    name, f"{title}, {large.callbacks:,} callbacks", "us", _each(ours),
                    _each(base), "our own with 10", Goal("<=", 1.2), _cpu(many=ours, few=base),
                )
            )  # fmt: skip
    return rows


def pattern(bench: Bench) -> list[Row]:
    """A lookup beside many patterns that all have to be tried."""
    count = bench.effort.patterns
    with (
        bench.agent(bench.example()) as none,
        bench.agent(bench.example(patterns(count))) as many,
    ):
        ours, base = bench.rounds(
            SIXTEEN,
            many.server(PATTERN),
            none.server(PATTERN),
        )
    title = f"time of a lookup beside {count:,} patterns x*i*y of its name and type"
    return [
        Row("patterns", title, "us", _each(ours), _each(base), "ours with none",
            detail=_cpu(patterns=ours, none=base))
    ]  # fmt: skip


# Each measurement with the rows that it gives, in the order of the table.
MEASUREMENTS: dict[Callable[[Bench], list[Row]], tuple[str, ...]] = {
    one: ("one", "echo-one"),
    sixteen: ("sixteen", "echo-sixteen", "p99"),
    pipelined: ("pipelined", "echo-pipelined"),
    distinct: ("distinct",),
    objects: ("objects",),
    edited: ("edited", "edited-paced"),
    edited_medium: ("edited-medium", "edited-medium-paced"),
    edited_large: ("edited-large", "edited-large-paced"),
    scale: ("scale", "scale-distinct"),
    edit: (
        "edit-p50", "edit-p99", "kernel-p50", "kernel-p99", "edit-medium-p50", "edit-medium-p99",
    ),
    pattern: ("patterns",),
}  # fmt: skip
