"""Draws the growth rows as an SVG: a column for each series, a row of panels for each quantity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.growth import SERIES, Place
from bench.process import BenchError
from bench.report import Row, machine_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The panels of a column, from top to bottom: what their axis says, and the lines in them.
PANELS = {
    "lookup, us": {"known": "asked before", "new": "never asked before"},
    "edit to served, p50, ms": {"edit": ""},
    "resident memory, MB": {"memory": ""},
    "CPU at rest, % of a core": {"idle": ""},
}
SIZE = (8.0, 8.0)  # inches of 72 points
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def draw(rows: Sequence[Row], measured_on: Mapping[str, Any], file: Path) -> None:
    """Write the growth rows to `file` as an SVG that refers to nothing outside it.

    Raises BenchError where there is no such row, or the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    points = [
        (Place(**row.detail["growth"]), median(row.ours)) for row in rows if "growth" in row.detail
    ]
    if not points:
        raise BenchError("no growth rows to draw: these figures were not measured with --growth")
    # Text stays text, and one set of figures gives one file, so that a change of it is one of them.
    with mpl.rc_context(
        {
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 8.0,
            "svg.fonttype": "none",
            "svg.hashsalt": "growth",
        }
    ):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots(len(PANELS), len(SERIES), sharex="col", sharey="row")
        for line, (label, quantities) in zip(axes, PANELS.items(), strict=True):
            line[0].set_ylabel(label)
            top = max((taken for place, taken in points if place.quantity in quantities), default=0)
            line[0].set_ylim(0, 1.1 * top or 1)
            for panel, series in zip(line, SERIES, strict=True):
                _fill(panel, series, quantities, points)
        for panel, series in zip(axes[-1], SERIES, strict=True):
            panel.set_xlabel(series)
        figure.suptitle(machine_line(measured_on), fontsize="medium")
        try:
            figure.savefig(file, format="svg", metadata=NO_METADATA)
        except OSError as error:
            raise BenchError(f"{file} cannot be written: {error.strerror}") from error


def _fill(
    panel: "Axes", series: str, quantities: Mapping[str, str], points: Sequence[tuple[Place, float]]
) -> None:
    """Draw a series into its panel: a line for each quantity that was measured."""
    counts = SERIES[series]
    panel.set_xscale("log")
    panel.set_xticks(counts, [f"{count:,}" for count in counts])
    panel.minorticks_off()
    panel.tick_params(length=0)
    panel.grid(alpha=0.3)
    for quantity, name in quantities.items():
        line = {
            place.count: taken
            for place, taken in points
            if (place.series, place.quantity) == (series, quantity)
        }
        if line:
            panel.plot(list(line), list(line.values()), marker="o", label=name)
    if len(panel.lines) > 1:
        panel.legend(frameon=False)
