"""The program that a Python callback runs in: passed to its interpreter as text, by `-c`.

For Python 2.6 and newer. It receives the code and becomes three processes, the leader, the keeper
and the callback. They and the protocol are in `process.py`.
"""

# The forms that Python 2 has.
# ruff: noqa: C405, F401, S102, SIM105, UP024, UP031, UP035, UP036

import errno
import fcntl
import json
import linecache
import os
import select
import signal
import sys
import threading
import traceback
import types

if False:  # Only type checkers read this, and Python 2 has no typing.
    from typing import Any, Dict, List


def receive(descriptor, enough):  # type: (int, Any) -> bytes
    """Bytes from the runner until `enough` is true of them."""
    data = bytearray()
    while not enough(data):
        more = os.read(descriptor, 1 << 16)
        if not more:
            raise EOFError("the runner has ended")
        data += more
    return bytes(data)


def send(descriptor, data):  # type: (int, bytes) -> None
    """Write all of it."""
    while data:
        data = data[os.write(descriptor, data) :]


def module(farm, job, functions, longest):  # type: (int, int, List[str], int) -> Any
    """The module `qb` as a callback sees it."""
    qb = types.ModuleType("qb")
    lock = threading.Lock()
    owner = os.getpid()

    # The farm refused, or was asked wrongly. The name is that in a traceback.
    error = type("error", (Exception,), {"__module__": "qb"})  # type: Any

    def ask(function, args, named):  # type: (str, Any, Dict[str, Any]) -> Any
        if os.getpid() != owner:
            raise error("a process that a callback started cannot use qb")
        request = json.dumps({"function": function, "args": args, "named": named}).encode("utf-8")
        if len(request) >= longest:
            raise error("%s: its arguments have more than %d bytes" % (function, longest))
        with lock:
            send(farm, request + b"\n")
            answer = json.loads(receive(farm, lambda data: data[-1:] == b"\n").decode("utf-8"))
        if "error" in answer:
            raise error(answer["error"])
        return answer["result"]

    def define(name):  # type: (str) -> None
        def function(*args, **named):  # type: (*Any, **Any) -> Any
            return ask(name, args, named)

        function.__name__ = str(name)
        setattr(qb, name, function)

    for name in functions:
        define(name)
    vars(qb).update(jobid=lambda: job, error=error, __file__="(callback-agent)")
    return qb


def watch(child, lifeline):  # type: (int, int) -> Any
    """Wait for the end of a child: its wait status, or None if it is to be ended before."""
    wake, wake_end = os.pipe()
    fcntl.fcntl(wake_end, fcntl.F_SETFL, os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Unlike `select`, for descriptors of any number.
    either = select.poll()
    either.register(lifeline, select.POLLIN)
    either.register(wake, select.POLLIN)
    while True:
        ended, how = os.waitpid(child, os.WNOHANG)
        if ended:
            return how
        try:
            ready = dict(either.poll())
        except select.error as error:
            if error.args[0] != errno.EINTR:  # In Python 2.
                raise
            continue
        if lifeline in ready:
            return None
        os.read(wake, 1 << 10)


def lead(keeper, lifeline):  # type: (int, int) -> None
    """Wait for the end of the keeper or of the runner, and kill the process group, this process
    included."""
    watch(keeper, lifeline)
    os.kill(0, signal.SIGKILL)
    # The first process of a container is not killed by its own signal.
    os._exit(0)


def keep(child, leader, group, status, lifeline):  # type: (int, int, int, int, int) -> None
    """Wait for the end of the callback, or end it, and report how it ended. Ends the process."""
    how = watch(child, lifeline)
    # While the leader is the parent of this process, the numbers belong to it and its group.
    if how is None:
        kill(-child, signal.SIGKILL)
        kill(child, signal.SIGKILL)
        if os.getppid() == leader:
            kill(-group, signal.SIGKILL)
        while how is None:
            try:
                how = os.waitpid(child, 0)[1]
            except OSError as error:
                if error.errno != errno.EINTR:  # In Python 2.
                    raise
    elif os.getppid() == leader:
        # If the callback stopped it.
        kill(leader, signal.SIGCONT)
    send(status, ("ended %d\n" % how).encode("ascii"))
    os._exit(0)


def kill(who, number):  # type: (int, int) -> None
    """Send a signal, if there is somebody who can be sent it."""
    try:
        os.kill(who, number)
    except OSError:
        pass


def run(path, code, qb):  # type: (str, bytes, Any) -> None
    """Run a callback as the main program; ends the process."""
    text = code if sys.version_info[0] == 2 else code.decode("utf-8", "replace")
    lines = text.splitlines(True)  # type: Any
    # Without a time, so that it is never compared with the file.
    linecache.cache[path] = (len(code), None, lines, path)
    main = types.ModuleType("__main__")
    vars(main).update(__file__=path, qb=qb, __builtins__=__builtins__)
    sys.modules["qb"] = qb
    sys.modules["__main__"] = main
    sys.argv[:] = [path]
    sys.path[:] = [folder for folder in sys.path if folder]
    try:
        exec(compile(code, path, "exec", 0, True), vars(main))
    except SystemExit:
        raise
    except BaseException:
        kind, error, frames = sys.exc_info()
        assert frames is not None
        # The first frame is this function.
        traceback.print_exception(kind, error, frames.tb_next)
        sys.exit(1)


def start():  # type: () -> None
    """Receive a callback, and run it."""
    farm, status, lifeline = map(int, sys.argv[1:4])
    for descriptor in (farm, status, lifeline):
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    # Python itself ignores two, so that what is written is an error in place of the end.
    for number in set(range(1, signal.NSIG)) - set([signal.SIGPIPE, signal.SIGXFSZ]):
        try:
            signal.signal(number, signal.SIG_DFL)
        except (RuntimeError, ValueError, EnvironmentError):
            pass  # SIGKILL, SIGSTOP and those that the C library uses.
    # A stopped keeper is sent it when the leader is killed, and then goes on.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
    data = receive(farm, lambda data: b"\n" in data)
    head, _, code = data.partition(b"\n")
    about = json.loads(head.decode("utf-8"))
    left = about["size"] - len(code)
    code += receive(farm, lambda data: len(data) >= left)
    # The leader of the group, or its child if the interpreter is started by another program.
    leader, group = os.getpid(), os.getpgrp()
    keeper = os.fork()
    if keeper:
        os.close(farm)
        lead(keeper, lifeline)
    os.setpgid(0, 0)
    child = os.fork()
    if child:
        os.close(farm)
        keep(child, leader, group, status, lifeline)
    os.setpgid(0, group)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    send(status, b"begun\n")
    os.close(status)
    os.close(lifeline)
    path = about["path"]
    if sys.version_info[0] == 2:
        path = path.encode("utf-8")
    run(path, code, module(farm, about["job"], about["functions"], about["longest"]))


#: Python 2 empties a module that nothing refers to any more.
_this = sys.modules[__name__]

if __name__ == "__main__":
    start()
