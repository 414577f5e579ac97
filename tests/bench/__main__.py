"""The agent beside what one would use instead of it; see `scripts/bench --help`."""

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from bench import costs, growth, markdown, measure, mirrors, peers, plot
from bench.measure import FULL, QUICK, Bench
from bench.process import BenchError
from bench.report import Report, Row, loads, machine, machine_line, read, table, together

# Everything is bounded by itself; this bounds the whole, in seconds: twice what it takes.
WHOLE_LIMIT = 1200

COMPARED = {
    **measure.MEASUREMENTS,
    **costs.MEASUREMENTS,
    mirrors.mirror_known: ("mirror-known",),
    mirrors.mirror_new: ("mirror-new",),
}
MEASUREMENTS = {**COMPARED, **growth.MEASUREMENTS}
TABLE = [name for names in COMPARED.values() for name in names]
GROWTH = [name for names in growth.MEASUREMENTS.values() for name in names]
ROWS = [*TABLE, *GROWTH]


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line."""
    series = ", ".join(
        f"{name}-{'|'.join(map(str, counts))}" for name, counts in growth.SERIES.items()
    )
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures the agent beside redis, watchman and the like in one run, in turns;"
        " prints medians and ratios. The table takes about 10 minutes, the growth rows less than 4;"
        " both want a quiet machine.",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--growth",
        action="store_true",
        help="measure how the figures grow with callbacks, connections and directories,"
        " in place of the table",
    )
    chosen.add_argument(
        "--only",
        metavar="ROW,...",
        type=names,
        help=f"measure these rows: {', '.join(TABLE)}; of --growth, growth-SERIES-COUNT-QUANTITY"
        f" with {series}, and {', '.join(growth.QUANTITIES)}",
    )
    chosen.add_argument(
        "--from",
        dest="files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="measure nothing: read what --json printed, several runs as one with all their rounds",
    )
    parser.add_argument(
        "--quick", action="store_true", help="only show that it runs; the figures mean nothing"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the figures of every round")
    form.add_argument("--markdown", action="store_true", help="print tables for the manual")
    parser.add_argument(
        "--plot",
        metavar="FILE.svg",
        type=drawing,
        help="draw the growth rows too, with matplotlib; they are those of --growth or --from",
    )
    options = parser.parse_args(words)
    options.only = options.only or (GROWTH if options.growth else TABLE)
    if options.plot and not options.files and not set(options.only) & set(GROWTH):
        parser.error("--plot draws growth rows: add --growth, or --from FILE")
    return options


def names(words: str) -> list[str]:
    """The rows in the argument of --only."""
    only = [name for name in words.split(",") if name]
    unknown = [name for name in only if name not in ROWS]
    if unknown or not only:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown) or repr(words)}; see --help")
    return only


def drawing(word: str) -> Path:
    """The file in the argument of --plot, which a long run must not find impossible to write."""
    file = Path(word)
    if file.suffix != ".svg" or not file.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{word} is not a file *.svg in a folder that exists")
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("matplotlib is missing: run scripts/setup")
    return file


def measured(only: list[str], quick: bool) -> Report:
    """The rows asked for."""
    measured_on = machine()
    missing = [(program, peers.PACKAGES[program]) for program in peers.missing()]
    for program, package in missing:
        print(
            f"bench: {program} is missing, its rows are shown without it:"
            f" apt-get install {package}",
            file=sys.stderr,
        )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), QUICK if quick else FULL, only)
        for measurement, given in MEASUREMENTS.items():
            if wanted := [name for name in given if name in only]:
                more = f" and {len(wanted) - 1} more" if wanted[1:] else ""
                print(f"measuring {wanted[0]}{more} ...", file=sys.stderr, flush=True)
                rows += [row for row in measurement(bench) if row.name in only]
    programs = [{"program": program, "package": package} for program, package in missing]
    return Report(measured_on, quick, programs, rows)


def stop(number: int, _frame: FrameType | None) -> None:
    """End what was started, then this."""
    if number == signal.SIGALRM:
        raise BenchError(f"not done after {WHOLE_LIMIT} s: measure fewer rows with --only")
    raise SystemExit(128 + number)


def show(report: Report, options: argparse.Namespace) -> None:
    """Print the report, and draw it. BenchError where it cannot be drawn."""
    if options.json:
        print(json.dumps(report.as_json(), indent=1))
    elif options.markdown:
        print(markdown.tables(report.rows))
    else:
        print(machine_line(report.machine))
        print(table(report.rows))
        print(loads(report.rows))
    if options.plot:
        plot.draw(report.rows, report.machine, options.plot)


def main() -> int:
    """Measure and print; 0 where all could be measured, whatever was reached, else 1."""
    options = arguments(sys.argv[1:])
    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.alarm(WHOLE_LIMIT)
    try:
        if options.files:
            report = together([read(file) for file in options.files])
        else:
            report = measured(options.only, options.quick)
        show(report, options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
