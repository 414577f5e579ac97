"""The program that a Python callback runs in: passed to its interpreter as text, by `-c`.

For Python 2.6 and newer. It receives the code, forks, and stays behind as the parent of the
callback, so that a callback that ends its parent does not end the runner. If the runner is killed,
it ends the callback. The protocol is in `process.py`.
"""

# The forms that Python 2 has.
# ruff: noqa: F401, S102, S110, UP031, UP035, UP036

import fcntl
import json
import linecache
import os
import signal
import sys
import threading
import traceback
import types

if False:  # Only type checkers read this, and Python 2 has no typing.
    from typing import Any, Dict, List


def receive(descriptor, enough):  # type: (int, Any) -> bytes
    """Bytes from the runner until `enough` is true of them."""
    data = b""
    while not enough(data):
        more = os.read(descriptor, 1 << 16)
        if not more:
            raise EOFError("the runner has ended")
        data += more
    return data


def send(descriptor, data):  # type: (int, bytes) -> None
    """Write all of it."""
    while data:
        data = data[os.write(descriptor, data) :]


def module(farm, job, functions):  # type: (int, int, List[str]) -> Any
    """The module `qb` as a callback sees it."""
    qb = types.ModuleType("qb")
    lock = threading.Lock()
    owner = os.getpid()

    class Error(Exception):
        """The farm refused, or was asked wrongly."""

    def ask(function, args, named):  # type: (str, Any, Dict[str, Any]) -> Any
        if os.getpid() != owner:
            raise Error("a process that a callback started cannot use qb")
        request = json.dumps({"function": function, "args": args, "named": named})
        with lock:
            send(farm, request.encode("utf-8") + b"\n")
            answer = json.loads(receive(farm, lambda data: data[-1:] == b"\n").decode("utf-8"))
        if "error" in answer:
            raise Error(answer["error"])
        return answer["result"]

    def define(name):  # type: (str) -> None
        def function(*args, **named):  # type: (*Any, **Any) -> Any
            return ask(name, args, named)

        function.__name__ = str(name)
        setattr(qb, name, function)

    for name in functions:
        define(name)
    vars(qb).update(jobid=lambda: job, error=Error, __file__="(callback-agent)")
    return qb


def guard(lifeline):  # type: (int) -> None
    """Wait for the end of the runner, and kill the process group, this process included."""
    os.read(lifeline, 1)
    os.kill(0, signal.SIGKILL)


def keep(child, status, lifeline):  # type: (int, int, int) -> None
    """Wait for the callback, report how it ended, and end."""
    try:
        # Not before the fork, which would copy a process with two threads.
        thread = threading.Thread(target=guard, args=(lifeline,))
        thread.daemon = True
        thread.start()
    except Exception:
        pass  # There can be no more threads. The callback runs all the same.
    while True:
        try:
            _, how = os.waitpid(child, 0)
            break
        except OSError as error:
            if error.errno != 4:  # EINTR, in Python 2.
                raise
    send(status, ("ended %d\n" % how).encode("ascii"))
    os._exit(0)


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
    for name in ("SIGHUP", "SIGQUIT", "SIGTERM", "SIGCHLD", "SIGALRM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
    data = receive(farm, lambda data: b"\n" in data)
    head, _, code = data.partition(b"\n")
    about = json.loads(head.decode("utf-8"))
    left = about["size"] - len(code)
    code += receive(farm, lambda data: len(data) >= left)
    send(status, b"begun\n")
    child = os.fork()
    if child:
        os.close(farm)
        keep(child, status, lifeline)
    os.close(status)
    os.close(lifeline)
    path = about["path"]
    if sys.version_info[0] == 2:
        path = path.encode("utf-8")
    run(path, code, module(farm, about["job"], about["functions"]))


#: Python 2 empties a module that nothing refers to any more.
_this = sys.modules[__name__]

if __name__ == "__main__":
    start()
