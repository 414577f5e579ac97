"""The agent beside what one would use instead of it; see `scripts/bench --help`."""

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from bench import costs, measure, mirrors, peers
from bench.measure import FULL, QUICK, Bench
from bench.process import BenchError
from bench.report import Row, loads, machine, table

# Everything is bounded by itself; this bounds the whole, in seconds: twice what it takes.
WHOLE_LIMIT = 1200

MEASUREMENTS = {
    **measure.MEASUREMENTS,
    **costs.MEASUREMENTS,
    mirrors.mirror_known: ("mirror-known",),
    mirrors.mirror_new: ("mirror-new",),
}
ROWS = [name for names in MEASUREMENTS.values() for name in names]


def arguments(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures the agent beside redis, watchman and the like in one run, in turns;"
        " prints medians and ratios. The whole takes about 10 minutes and wants a quiet machine.",
    )
    parser.add_argument("--json", action="store_true", help="print the figures instead of a table")
    parser.add_argument(
        "--quick", action="store_true", help="only show that it runs; the figures mean nothing"
    )
    parser.add_argument(
        "--only", metavar="ROW,...", default="", help=f"measure these rows: {', '.join(ROWS)}"
    )
    options = parser.parse_args(words)
    options.only = [name for name in options.only.split(",") if name] or ROWS
    unknown = [name for name in options.only if name not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return options


def measured(only: list[str], quick: bool) -> list[Row]:
    """The rows asked for."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), QUICK if quick else FULL)
        for measurement, names in MEASUREMENTS.items():
            if set(names) & set(only):
                print(f"measuring {', '.join(names)} ...", file=sys.stderr, flush=True)
                rows += [row for row in measurement(bench) if row.name in only]
    return rows


def stop(number: int, _frame: FrameType | None) -> None:
    """End what was started, then this."""
    if number == signal.SIGALRM:
        raise BenchError(f"not done after {WHOLE_LIMIT} s: measure fewer rows with --only")
    raise SystemExit(128 + number)


def main() -> int:
    """Measure and print; 0 where all could be measured, whatever was reached, else 1."""
    options = arguments(sys.argv[1:])
    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.alarm(WHOLE_LIMIT)
    measured_on = machine()
    missing = [(program, peers.PACKAGES[program]) for program in peers.missing()]
    for program, package in missing:
        print(
            f"bench: {program} is missing, its rows are shown without it:"
            f" apt-get install {package}",
            file=sys.stderr,
        )
    try:
        rows = measured(options.only, options.quick)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json:
        report = {
            "machine": measured_on,
            "quick": options.quick,
            "missing": [{"program": program, "package": package} for program, package in missing],
            "rows": [row.as_json() for row in rows],
        }
        print(json.dumps(report, indent=1))
    else:
        print("{cores} cores, {processor}, Linux {kernel}, Python {python},".format(**measured_on),
              "load before {load_before:.2f}".format(**measured_on))  # fmt: skip
        print(table(rows))
        print(loads(rows))
    return 0


sys.exit(main())
