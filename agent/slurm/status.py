"""How the daemon is: what it writes about itself, and what `slurm status` makes of that.

The daemon writes a file by rename. The lock that it holds says whether it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

from agent.core.counting import count
from agent.core.quoting import printable, shown
from agent.slurm.spool import BAD, Spool, SpoolError, Waiting

#: Seconds without a write after which a daemon counts as stuck: longer than any of its steps.
STUCK_SECONDS = 60.0
#: Seconds that an event may wait before it is a fault. A callback's time limit is as long.
LATE_SECONDS = 60.0
#: In the daemon's directory.
LOCK, STATUS, DATABASE = "lock", "status.json", "state.db"

JsonObject = dict[str, Any]


class InUse(Exception):
    """Another daemon has this directory."""


def lock(folder: str) -> None:
    """Take the lock of a daemon's directory, for as long as the process runs.

    Raises InUse, OSError.
    """
    file = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise InUse(f"{folder} is in use by another daemon; name another with --state") from None


def _is_locked(folder: str) -> bool:
    try:
        file = os.open(f"{folder}/{LOCK}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def waits(waiting: list[Waiting]) -> JsonObject:
    """What is said of the events that wait."""
    oldest = max(0.0, time.time() - waiting[0].time) if waiting else 0.0
    return {"waiting": len(waiting), "oldest_seconds": round(oldest, 3)}


def encoded(found: JsonObject) -> bytes:
    """The status as it is written."""
    return json.dumps(found).encode() + b"\n"


def read(folder: str, spool: str) -> JsonObject:
    """The status, with what the spool holds now, and `faults`: why not all is well."""
    running = _is_locked(folder)
    try:
        with open(f"{folder}/{STATUS}", "rb") as file:
            found: JsonObject = json.loads(file.read())
        known = isinstance(found, dict)
    except (OSError, ValueError):
        known = False
    if not known:
        found = {}
    unusable = ""
    try:
        found |= waits(Spool(spool).waiting())
    except SpoolError as error:
        unusable = str(error)
    except PermissionError:
        pass  # Others than root and the user of slurmctld get what the daemon said.
    except OSError as error:
        unusable = f"the spool {spool} cannot be read: {error.strerror}"
    found = waits([]) | found | {"running": running}
    return {**found, "faults": list(_faults(found, unusable, folder, spool))}


def _faults(found: JsonObject, unusable: str, folder: str, spool: str) -> Iterator[str]:
    if not found["running"]:
        yield f"no daemon runs in {folder}: start one with `callback-agent slurm run`"
    elif "time" not in found:
        yield f"the daemon has written no {STATUS} yet"
    elif (age := time.time() - found["time"]) > STUCK_SECONDS:
        yield f"the daemon has not written its status for {age:.0f} s: it is stuck"
    if unusable:
        yield unusable
    with contextlib.suppress(OSError):
        if bad := len(os.listdir(f"{spool}/{BAD}")):
            yield f"{count(bad, 'file')} in {spool}/{BAD}: no events; look at them and remove them"
    if found["running"]:
        for name in ("agent", "slurm", "store", "spool", "daemon"):
            if why := found.get("trouble", {}).get(name):
                yield why
    if found["oldest_seconds"] > LATE_SECONDS:
        yield f"the oldest event has waited for {found['oldest_seconds']:.0f} s"


def lines(found: JsonObject) -> Iterator[str]:
    """The status for a person, the verdict first."""
    yield f"state: {'not ok' if found['faults'] else 'ok'}"
    for why in found["faults"]:
        yield f"fault: {printable(why)}"
    waits = f", the oldest for {found['oldest_seconds']:.0f} s" if found["waiting"] else ""
    yield f"events waiting: {found['waiting']}{waits}"
    counted = found.get("counters", {})
    bad, refused = counted.get("events_bad", 0), counted.get("events_refused", 0)
    said = f", {bad} set aside" if bad else ""
    said += f", {refused} refused by the agent" if refused else ""
    yield f"events handled: {counted.get('events', 0)}{said}"
    outcomes = {
        name.removeprefix("callbacks_"): number
        for name, number in counted.items()
        if name.startswith("callbacks_")
    }
    said = ", ".join(f"{number} {name}" for name, number in sorted(outcomes.items()))
    repeats = counted.get("repeats", 0)
    again = f" ({count(repeats, 'repeat')})" if repeats else ""
    yield f"callbacks: {said or 'none yet'}{again}"
    yield f"callbacks waiting: {found.get('callbacks_waiting', 0)}"
    for one in found.get("callbacks_running", ()):
        yield f"running: {shown(one['path'])} for job {one['owner']}, for {one['seconds']:.0f} s"
    yield f"jobs: {found.get('living', 0)} living, {found.get('jobs', 0)} known"


# Metrics -----------------------------------------------------------------------------------------

_PREFIX = "callback_agent_slurm"
#: How the files begin.
OWN_STATUS = re.compile(rb'\{"pid": \d')
OWN_METRICS = re.compile(rb"# HELP callback_agent_slurm_")


def metrics(found: JsonObject) -> bytes:
    """The status in the text format of Prometheus, for the node exporter's textfile collector."""
    counted = found["counters"]
    text: list[str] = []

    def family(name: str, kind: str, about: str, *samples: tuple[str, float]) -> None:
        text.append(f"# HELP {_PREFIX}_{name} {about}")
        text.append(f"# TYPE {_PREFIX}_{name} {kind}")
        text.extend(f"{_PREFIX}_{name}{labels} {value:g}" for labels, value in samples)

    total = "counter"
    family("events_total", total, "Events handled.", ("", counted.get("events", 0)))
    bad = counted.get("events_bad", 0)
    family("events_bad_total", total, "Files set aside that were not events.", ("", bad))
    refused = counted.get("events_refused", 0)
    family("events_refused_total", total, "Events that the agent refused.", ("", refused))
    outcomes = [
        (f'{{outcome="{name.removeprefix("callbacks_")}"}}', float(number))
        for name, number in sorted(counted.items())
        if name.startswith("callbacks_")
    ]
    family("callbacks_total", total, "Callbacks that ran, by outcome.", *outcomes)
    repeats = counted.get("repeats", 0)
    family("repeats_total", total, "Callbacks run again after a crash.", ("", repeats))
    family("events_waiting", "gauge", "Events in the spool.", ("", found["waiting"]))
    oldest = found["oldest_seconds"]
    family("oldest_event_seconds", "gauge", "How long the oldest has waited.", ("", oldest))
    waits, runs = found["callbacks_waiting"], len(found["callbacks_running"])
    family("callbacks_waiting", "gauge", "Callbacks that wait.", ("", waits))
    family("callbacks_running", "gauge", "Callbacks that run.", ("", runs))
    family("jobs", "gauge", "Jobs that are known.", ("", found["jobs"]))
    well = [(f'{{what="{name}"}}', float(not why)) for name, why in found["trouble"].items()]
    family("well", "gauge", "1 if it works: the agent, Slurm, the spool, the database.", *well)
    family("timestamp_seconds", "gauge", "When this was written.", ("", found["time"]))
    return ("\n".join(text) + "\n").encode()
