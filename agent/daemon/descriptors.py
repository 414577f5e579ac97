"""The limit of open files."""

from __future__ import annotations

import contextlib
import os
import resource

from agent.settings import SettingsError

#: Descriptors without which the agent does not start: its own take about 25, half of the limit is
#: left free for reloads, and some clients must be able to connect.
MIN_DESCRIPTORS = 96


def raise_fd_limit(wanted: int = 0) -> None:
    """Let the process have `wanted` files open, or as many as it may.

    Raises SettingsError where it cannot open MIN_DESCRIPTORS more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    opened: list[int] = []
    try:
        while len(opened) < MIN_DESCRIPTORS:
            opened.append(os.dup(0))
    except OSError as error:
        raise SettingsError(
            f"only {len(opened)} more files can be opened ({error.strerror}), and the agent needs"
            f" {MIN_DESCRIPTORS}: raise the limit (ulimit -n; LimitNOFILE of systemd)"
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
