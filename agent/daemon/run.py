"""The agent: settings, reloads, log and pipe, put together and run until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import anyio
import uvloop

from agent import settings
from agent.core.quoting import printable
from agent.daemon import process
from agent.daemon.descriptors import raise_fd_limit
from agent.daemon.messages import MessageHandler
from agent.daemon.signals import Signals
from agent.daemon.systemd import Notify
from agent.disk.permissions import Trust
from agent.reload.last_good import LastGood
from agent.reload.log import Log
from agent.reload.reloader import Reloader
from agent.server.access import Door
from agent.server.handlers import Service
from agent.server.listener import LOOK, MAX_CONNECTIONS, Held, Pipe
from agent.settings import STANDARD_OUTPUT, Host, Settings, SettingsError

#: Seconds for which a reload, in its thread, may keep the interpreter from the lookups.
SWITCH_INTERVAL = 0.00005

#: uvloop answers twice as many lookups as asyncio's own loop.
LOOP = {"loop_factory": uvloop.new_event_loop}

#: Seconds that the end of the agent waits for the reload log.
LOG_DRAIN = 1.5
STOPPED = 0
HELD = 4

_logger = logging.getLogger(__name__)


def run(flags: Mapping[str, str | None], signals: Signals) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises SettingsError, and OSError or
    RuntimeError where the system lacks what the agent needs, such as descriptors or threads."""
    # One for each client, and some more.
    raise_fd_limit(MAX_CONNECTIONS + 200)
    host = Host.here()
    now = settings.read(flags, host=host)
    process.leave_working_directory()
    settings.pipe_folder(now)
    trusted = settings.group_id(now.trusted_group, now.sources["trusted_group"])
    trust = Trust(
        now.unsafe_permissions, groups=frozenset() if trusted is None else frozenset({trusted})
    )
    group = settings.group_id(now.pipe_group, now.sources["pipe_group"])
    pipe = Pipe(now.pipe, group)
    messages = MessageHandler()
    messages.install()
    try:
        pipe.lock()
    except Held as held:
        _logger.error("%s", held)
        messages.drain()
        return HELD
    signals.at_forced_end += [pipe.remove, messages.report_forced_end]
    if now.log == STANDARD_OUTPUT and 1 in process.closed_at_start:
        _logger.warning("standard output is closed: the reload log (--log -) is not written")
    last_good = LastGood(now.state, now.pipe, trust)
    last_good.open()
    if now.bad and last_good.settings is None:
        raise SettingsError("\n".join(str(f) for f in now.findings))
    if last_good.settings is not None:
        now = _with_stored(now, last_good)
    who = f"{socket.gethostname()}[{os.getpid()}]"
    log = Log(now.log, now.log_format, who)
    log.start()
    read_settings = partial(settings.read, flags, host=host)
    reloader = Reloader(read_settings, now, last_good, log, trust)
    door = Door(os.geteuid(), group, now.reload_for)
    # A hundred thousand callbacks in the making are no garbage: looking for some takes as long as
    # the rest of the start.
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        anyio.run(_serve, reloader, pipe, door, messages, signals, backend_options=LOOP)
    except BaseExceptionGroup as errors:
        raise _first(errors) from errors
    log.flush(LOG_DRAIN)
    messages.drain()
    return STOPPED


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What one of the tasks raised, which task groups wrap."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _with_stored(now: Settings, last_good: LastGood) -> Settings:
    """What to serve by where qb.conf is lost or wrong: the last valid settings."""
    assert last_good.settings is not None
    directories = tuple(last_good.settings.directories)
    if now.sources["directories"].startswith(("--", "CALLBACK_AGENT")):
        directories = now.directories
    return replace(now, directories=directories, languages=frozenset(last_good.settings.languages))


async def _serve(
    reloader: Reloader, pipe: Pipe, door: Door, messages: MessageHandler, signals: Signals
) -> None:
    service = Service(reloader, pipe, door, messages)
    notify = Notify(os.environ)
    reloader.records.listeners.append(lambda _: notify.send(_status_line(reloader)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reloader.run)
        tasks.start_soon(_listen, reloader, pipe, door, service, notify)
        await _until_stopped(signals, reloader)
        notify.send("STOPPING=1")
        pipe.stop_listening()
        tasks.cancel_scope.cancel()
    if reloader.ready.is_set():
        try:
            await reloader.stopped()
        except Exception as error:  # it stops all the same
            _logger.error("the end could not be recorded: %r", error)
    # Only now: those who subscribed are told that it stopped.
    pipe.close()


async def _until_stopped(signals: Signals, reloader: Reloader) -> None:
    """Reload at each SIGHUP, and return at SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[int] = asyncio.Queue()
    signals.act(lambda number: loop.call_soon_threadsafe(received.put_nowait, number))
    while await received.get() == signal.SIGHUP:
        reloader.notice()


async def _listen(
    reloader: Reloader,
    pipe: Pipe,
    door: Door,
    service: Service,
    notify: Notify,
) -> None:
    await reloader.ready.wait()
    # What the first index is made of stays: the collector need never look at it.
    gc.freeze()
    gc.enable()
    await pipe.listen(service, door)
    # The signals were in place before the first index.
    notify.send("READY=1", _status_line(reloader))
    # It reads files of the package, which an upgrade may remove.
    with contextlib.suppress(Exception):  # then it is tried again when it is needed
        await service.prepare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_pipe, reloader, pipe, door, service)
        if notify.interval is not None:
            tasks.start_soon(_feed_watchdog, notify, notify.interval)


async def _feed_watchdog(notify: Notify, interval: float) -> None:
    """From the loop that serves: where it hangs, systemd must know."""
    while True:
        await anyio.sleep(interval)
        notify.send("WATCHDOG=1")


async def _keep_pipe(reloader: Reloader, pipe: Pipe, door: Door, service: Service) -> None:
    """Make the pipe anew where somebody removed it, and tell of it, or why it cannot be made."""
    told = ""
    while True:
        await anyio.sleep(LOOK)
        try:
            if pipe.lost():
                settings.pipe_folder(reloader.settings)
                await pipe.listen_anew(service, door)
                _logger.warning(
                    "somebody removed the pipe %s or its lock; it is made again",
                    printable(pipe.path),
                )
            told = ""
        except Exception as trouble:  # of any kind: it is tried again
            if str(trouble) != told:
                told = str(trouble)
                _logger.error("%s", told)


def _status_line(reloader: Reloader) -> str:
    index = reloader.index
    return f"STATUS={reloader.state}: generation {index.generation}, {index.count} callbacks served"
