"""Runs the agent: start, serve, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import anyio
import uvloop

from agent import settings
from agent.core.counting import count
from agent.core.quoting import printable
from agent.daemon import memory, pipe_folder, process
from agent.daemon.descriptors import raise_fd_limit
from agent.daemon.match_file import MatchFile
from agent.daemon.measuring import Measuring
from agent.daemon.messages import MessageHandler
from agent.daemon.metrics_file import MetricsFile
from agent.daemon.signals import Signals
from agent.daemon.systemd import Notify
from agent.disk.containment import first_error
from agent.disk.permissions import Trust
from agent.reload.last_good import LastGood
from agent.reload.log import Log
from agent.reload.reloader import Reloader
from agent.server.access import AccessPolicy
from agent.server.handlers import Handlers
from agent.server.listener import SOCKET_CHECK_INTERVAL, Pipe, PipeInUse
from agent.server.matches import Matches
from agent.server.service import Service
from agent.settings import STANDARD_OUTPUT, TABLE, Given, Settings, SettingsError
from agent.settings.host import Host
from agent.timing import DEFAULTS, Timing

#: Seconds that a reload, in its thread, may hold the GIL while lookups wait. Set once lookups are
#: served: it makes a start slower.
SWITCH_INTERVAL = 0.00005
#: uvloop answers twice as many lookups as asyncio's own loop.
LOOP = {"loop_factory": uvloop.new_event_loop}
#: Descriptors besides those of clients: for reloads, logs and the agent's own.
OTHER_DESCRIPTORS = 200
#: Seconds that the end of the agent waits for the reload log.
LOG_DRAIN_SECONDS = 1.5

EXIT_STOPPED = 0
EXIT_PIPE_IN_USE = 4

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Agent:
    """The parts of a running agent."""

    reloader: Reloader
    log: Log
    pipe: Pipe
    access: AccessPolicy
    messages: MessageHandler
    signals: Signals
    timing: Timing
    match_file: MatchFile
    matches: Matches
    metrics_file: MetricsFile | None


def run(given: Mapping[str, Given], signals: Signals, timing: Timing = DEFAULTS) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. `given` holds what flags and variables say.

    Raises SettingsError, and OSError or RuntimeError if the system does not provide what the agent
    needs, such as descriptors or threads.
    """
    messages = MessageHandler()
    messages.install()
    try:
        agent = _start(given, messages, signals, timing)
    except PipeInUse as error:
        _logger.error("%s", error)
        messages.drain()
        return EXIT_PIPE_IN_USE
    try:
        anyio.run(_serve, agent, backend_options=LOOP)
    except BaseExceptionGroup as errors:
        raise first_error(errors) from errors
    agent.log.flush(LOG_DRAIN_SECONDS)
    messages.drain()
    return EXIT_STOPPED


# -- start ----------------------------------------------------------------------------------------


def _start(
    given: Mapping[str, Given], messages: MessageHandler, signals: Signals, timing: Timing
) -> _Agent:
    """Put the parts together and take the pipe's lock. Raises as `run`, and PipeInUse."""
    raise_fd_limit(timing.pipe.max_connections + OTHER_DESCRIPTORS)
    host = Host.here()
    now = settings.read(given, host=host)
    process.leave_working_directory()
    pipe_folder.make(now)
    trusted = settings.group_id(now.trusted_group, now.sources["trusted_group"])
    groups = frozenset[int]() if trusted is None else frozenset({trusted})
    trust = Trust(now.unsafe_permissions, groups=groups)
    pipe_group = settings.group_id(now.pipe_group, now.sources["pipe_group"])
    pipe = Pipe(now.pipe, pipe_group, timing.pipe)
    pipe.lock()
    signals.at_forced_end += [pipe.remove, messages.report_forced_end]
    if now.log == STANDARD_OUTPUT and 1 in process.closed_at_start:
        _logger.warning("standard output is closed: the reload log (--log -) is not written")
    last_good = LastGood(now.state, now.pipe, trust)
    last_good.open()
    if last_good.settings is not None:
        now = _with_stored(now, last_good)
    elif now.has_errors:
        raise SettingsError("\n".join(str(f) for f in now.findings))
    log = Log(now.log, now.log_format, f"{socket.gethostname()}[{os.getpid()}]")
    log.start()
    read_settings = partial(settings.read, given, host=host)
    reloader = Reloader(read_settings, now, last_good, log, trust, timing)
    access = AccessPolicy(os.geteuid(), pipe_group, now.reload_for)
    match_file = MatchFile(last_good.folder, trust)
    metrics_file = MetricsFile(now.metrics_file) if now.metrics_file else None
    return _Agent(
        *(reloader, log, pipe, access, messages, signals, timing),
        *(match_file, match_file.load(), metrics_file),
    )


def _with_stored(now: Settings, last_good: LastGood) -> Settings:
    """The settings, with the last valid directories and languages of qb.conf in place of the
    current ones, which the reloader uses later if they are valid.

    `qb_conf_exists` is also true if the last valid settings came from this qb.conf. Otherwise a
    qb.conf that is still lost would count as one that never existed, and the defaults would be
    used.
    """
    last = last_good.settings
    assert last is not None
    directories = tuple(last.directories)
    stored = f"stored, from the last valid {printable(last.qb_conf)}"
    sources = {**now.sources, "directories": stored, "languages": stored}
    row = TABLE["directories"]
    if now.sources["directories"] in (row.flag, row.variable):
        directories, sources["directories"] = now.directories, now.sources["directories"]
    exists = now.qb_conf_exists or (last.qb_conf_exists and last.qb_conf == now.qb_conf)
    languages = frozenset(last.languages)
    return replace(
        now,
        directories=directories,
        languages=languages,
        sources=sources,
        qb_conf_exists=exists,
    )


# -- serve ----------------------------------------------------------------------------------------


async def _serve(agent: _Agent) -> None:
    """Reload and answer until a signal says to stop, then end."""
    reloader, pipe = agent.reloader, agent.pipe
    handlers = Handlers(reloader, pipe, agent.access, agent.messages, agent.matches)
    service = Service(handlers, agent.timing.pipe)
    measuring = Measuring(reloader, pipe, handlers, agent.match_file, agent.metrics_file)
    notify = Notify(os.environ)
    reloader.records.listeners.append(lambda _: notify.send(_status_line(reloader)))
    # Before the pipe is there, so that no refused request waits for it; and because an upgrade may
    # remove the files of the package. Not in a thread: it would only take turns with the reading.
    with contextlib.suppress(Exception):  # then it is loaded when it is needed
        handlers.load()
    # The first index makes many objects and no garbage.
    memory.collect_nothing()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reloader.run)
        tasks.start_soon(_listen, agent, service, measuring, notify)
        await _until_stopped(agent.signals, reloader)
        notify.send("STOPPING=1")
        pipe.stop_listening()
        tasks.cancel_scope.cancel()
    if reloader.ready.is_set():
        try:
            await reloader.stopped()
        except Exception as error:  # the agent stops all the same
            _logger.error("the last record could not be written: %r", error)
    try:
        await measuring.stop()
    except Exception as error:
        _logger.error("the last matches of callbacks could not be stored: %r", error)
    # After the last record, which subscribers receive.
    pipe.close()


async def _until_stopped(signals: Signals, reloader: Reloader) -> None:
    """Reload at each SIGHUP, and return at SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[int] = asyncio.Queue()
    signals.act(lambda number: loop.call_soon_threadsafe(received.put_nowait, number))
    while await received.get() == signal.SIGHUP:
        reloader.notice()


async def _listen(agent: _Agent, service: Service, measuring: Measuring, notify: Notify) -> None:
    """Listen once the first index is ready, and keep listening."""
    await agent.reloader.ready.wait()
    # The objects of an index stay: the collector need not look at them.
    memory.freeze_objects()
    agent.reloader.freezes = True
    sys.setswitchinterval(SWITCH_INTERVAL)
    await agent.pipe.listen(service, agent.access)
    agent.messages.say(_serving(agent))
    notify.send("READY=1", _status_line(agent.reloader))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_pipe, agent, service)
        tasks.start_soon(measuring.run)
        if notify.interval is not None:
            tasks.start_soon(_feed_watchdog, notify, notify.interval)


async def _feed_watchdog(notify: Notify, interval: float) -> None:
    """Report every `interval` seconds that the event loop runs."""
    while True:
        await anyio.sleep(interval)
        notify.send("WATCHDOG=1")


async def _keep_pipe(agent: _Agent, service: Service) -> None:
    """Make the pipe again if somebody removes it, and report it, or why it cannot be made."""
    reported = ""
    while True:
        await anyio.sleep(SOCKET_CHECK_INTERVAL)
        try:
            if agent.pipe.is_missing():
                pipe_folder.make(agent.reloader.settings)
                await agent.pipe.rebind(service, agent.access)
                _logger.warning(
                    "somebody removed the pipe %s or its lock; it is made again",
                    printable(agent.pipe.path),
                )
            reported = ""
        except Exception as error:  # of any kind: it is tried again
            if str(error) != reported:
                reported = str(error)
                _logger.error("%s", reported)


def _serving(agent: _Agent) -> str:
    """The line that says what is served from where, and the notes about the settings."""
    reloader = agent.reloader
    now = reloader.settings
    callbacks, directories = reloader.index.count, len(now.directories)
    parts = (
        f"serving {count(callbacks, 'callback')} of"
        f" {count(directories, 'directory', 'directories')}",
        f"state {reloader.state}",
        f"pipe {now.pipe}",
        f"log {'standard output' if now.log == STANDARD_OUTPUT else now.log}",
        *reloader.notes,
    )
    return printable("; ".join(parts))


def _status_line(reloader: Reloader) -> str:
    index = reloader.index
    served = count(index.count, "callback")
    return f"STATUS={reloader.state}: generation {index.generation}, {served} served"
