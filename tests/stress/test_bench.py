"""A short form of scripts/bench: it runs, and its rows are there; figures that were saved are shown
and drawn."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from bench import growth, markdown, plot
from bench.process import BenchError
from bench.report import Goal, Report, Row, machine, read, table
from support.agents import DEADLINE
from support.documents import MANUAL, rows

ROOT = Path(__file__).resolve().parents[2]

needs_peers = pytest.mark.skipif(
    not all(map(shutil.which, ("cc", "redis-server", "watchman"))),
    reason="needs a C compiler, and redis and watchman, which the agent is measured beside",
)


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts/bench"), *words]
    environ = {**os.environ, "PYTHON": sys.executable}
    limit = 4 * DEADLINE
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environ)


@needs_peers
def test_the_bench_runs() -> None:
    names = ("objects", "edit-p50", "memory-burst", "mirror-new")
    done = bench("--quick", "--json", "--only", ",".join(names))
    assert done.returncode == 0, done.stderr
    measured = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert all(measured[name]["ours"] > 0 for name in names)
    assert measured["objects"]["goal"] == {"relation": ">=", "limit": 0.45, "of": "ratio"}
    assert measured["mirror-new"]["detail"]["ratio_to_c"] > 0


@needs_peers
def test_growth_is_measured_saved_and_drawn(tmp_path: Path) -> None:
    wanted = [
        place.row for place in growth.places("connections") if place.quantity in ("known", "edit")
    ]
    drawing = tmp_path / "growth.svg"
    done = bench("--quick", "--json", "--only", ",".join(wanted), "--plot", str(drawing))
    assert done.returncode == 0, done.stderr
    saved = tmp_path / "saved.json"
    saved.write_text(done.stdout)
    report = read(saved)
    assert report.quick
    assert [row.name for row in report.rows] == wanted
    for first, *others in (report.rows[:3], report.rows[3:]):
        assert first.ratio is None
        assert all(row.ratio and row.other == first.ours for row in others)
    again = tmp_path / "again.svg"
    shown = bench("--from", str(saved), "--plot", str(again))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert again.read_bytes() == drawing.read_bytes()
    assert table(report.rows) in shown.stdout


def grown() -> list[Row]:
    """Growth rows with figures of their own."""
    places = chain.from_iterable(map(growth.places, growth.SERIES))
    return [
        Row(place.row, "title", "us", [number], [], "", None, {"growth": vars(place)})
        for number, place in enumerate(places, 1001)
    ]


def saved(taken: list[Row], file: Path) -> Path:
    report = Report(machine(), False, [], taken)
    file.write_text(json.dumps(report.as_json()))
    return file


def test_what_was_saved_is_what_was_measured(tmp_path: Path) -> None:
    goal, shares = Goal("<=", 2.0, "ours"), {"generator": 0.5, "server": 1.0}
    row = Row("one", "lookups", "/s", [1.5, 2.0], [3, 4], "redis", goal, {"cpu": {"agent": shares}})
    report = read(saved([row, *grown()], tmp_path / "saved.json"))
    assert report.rows == [row, *grown()]
    assert report.machine == machine() | {"load_before": report.machine["load_before"]}


def test_the_rounds_of_several_runs_are_put_together(tmp_path: Path) -> None:
    first = Row("one", "lookups", "/s", [90.0], [100.0], "redis", Goal(">=", 1.0))
    second = Row("one", "lookups", "/s", [110.0, 100.0], [100.0, 50.0], "redis", Goal(">=", 1.0))
    other = Row("idle", "CPU", "%", [1.0], [], "")
    runs = [
        saved(taken, tmp_path / f"{number}.json")
        for number, taken in enumerate([[first], [second, other]])
    ]
    done = bench("--from", *map(str, runs))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    numbers = "100 100 /s redis 1.00 20% >= 1 x yes"
    assert ["one", "lookups", *numbers.split()] in lines
    assert ["idle", "CPU", "1.00", "-", "%", "-", "-", "shown"] in lines


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"{}", b'{"rows": [{}]}', None])
def test_a_file_that_holds_no_figures_is_refused(text: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(BenchError, match=r"saved\.json was not read .* expected what .* --json"):
        read(file)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"ours": [1001]', '"ours": []', "length >= 1 - at `$.rows[0].rounds.ours`"),
        ('"ours": [1001]', '"ours": [NaN]', "invalid"),
        ('"ours": [1001]', '"ours": [1e999]', "out of range"),
        (
            '"ours": [1001]',
            '"ours": [1e300]',
            "<= 1000000000000000.0 - at `$.rows[0].rounds.ours[0]`",
        ),
        ('"rounds": {', '"rounds": 1, "x": {', "Expected `object`, got `int`"),
        ('"rounds": {', '"x": {', "missing required field `rounds`"),
        ('"rows": [', '"rows": 1, "x": [', "Expected `array`, got `int` - at `$.rows`"),
        ('"unit": "us"', '"unit": 1', "Expected `str`, got `int` - at `$.rows[0].unit`"),
        ('"count": 10,', '"count": 0,', ">= 1 - at `$.rows[0].detail.growth.count`"),
        ('"count": 10,', '"count": 10, "x": 1,', "unknown field `x`"),
        ('"growth": {', '"cpu": {"agent": {}}, "x": {', "missing required field `generator`"),
        ('"growth": {', f'"x": {"[" * 300_000}, "y": {{', "recursion"),
        ('"cores"', '"x"', "missing required field `cores` - at `$.machine`"),
        ("{", "[" * 300_000, "Expected `object`, got `array`"),
    ],
)
def test_a_saved_figure_that_is_none_is_refused_with_its_place(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    file = saved(grown(), tmp_path / "saved.json")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BenchError) as refused:
        read(file)
    assert said in str(refused.value)
    assert str(refused.value).endswith("; expected what scripts/bench --json prints")


def test_a_plot_says_what_it_shows_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    drawing = tmp_path / "growth.svg"
    taken = grown()
    plot.draw(taken, machine(), drawing)
    svg = drawing.read_text()
    text = set(re.findall(r">([^<>]+)</text>", svg))
    assert {*growth.SERIES, *plot.PANELS, "100,000", "200", "never asked before"} <= text
    assert re.findall(r"""<(?:script|image|metadata|a)\b|href="[^#]|url\([^#]|@import""", svg) == []
    one_more = [*taken[:-1], Row("x", "", "us", [1.0], [], "", None, taken[-1].detail)]
    other = tmp_path / "other.svg"
    plot.draw(one_more, machine(), other)
    assert drawing.read_bytes() != other.read_bytes()


def test_what_cannot_be_drawn_is_said_before_it_is_measured(tmp_path: Path) -> None:
    drawing = str(tmp_path / "x.svg")
    for words, message in (
        (("--plot", drawing), "--plot draws growth rows: add --growth, or --from FILE"),
        (("--growth", "--plot", "/nonexistent/x.svg"), "/nonexistent/x.svg is not a file *.svg"),
        (("--growth", "--plot", "x.png"), "x.png is not a file *.svg"),
        (("--only", "one,two"), "no row two; see --help"),
    ):
        done = bench(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr
    with pytest.raises(BenchError, match="no growth rows to draw"):
        plot.draw([], machine(), tmp_path / "x.svg")
    with pytest.raises(BenchError, match="cannot be written: Is a directory"):
        plot.draw(grown(), machine(), tmp_path)


def test_rows_become_the_tables_of_the_manual() -> None:
    one = Row("one", "lookups", "/s", [20_000.0], [10_000.0], "redis")
    idle = Row("idle-20", "CPU", "%", [0.25], [], "")
    floor = Row("echo-one", "floor", "/s", [1.0], [1.0], "bare echo")
    assert markdown.tables([idle, one, floor, *grown()[:3]]).splitlines() == [
        "| row | agent | reference | ratio |",
        "|---|---|---|---|",
        "| lookups per second, 1 connection | 20,000 | Redis 10,000 | 2.00 |",
        "| the same with 20 directories | 0.25 % | | |",
        "",
        "| | known, us | new, us | memory, MB | edit, ms | idle, % |",
        "|---|---|---|---|---|---|",
        "| callbacks: 10 | 1,001 | - | - | - | - |",
        "| callbacks: 1,000 | 1,002 | - | - | - | - |",
        "| callbacks: 100,000 | 1,003 | - | - | - | - |",
    ]


def test_the_manual_has_each_row_and_each_point_and_the_plot() -> None:
    page = (MANUAL / "performance.md").read_text()
    shown = [row[0] for row in rows(page)]
    titles = [title for title, _ in markdown.MANUAL.values()]
    points = [
        f"{series}: {count:,}" for series, counts in growth.SERIES.items() for count in counts
    ]
    assert [title for title in shown if title in titles] == titles
    assert [title for title in shown if title in points] == points
    assert "](growth.svg)" in page
