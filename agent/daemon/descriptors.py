"""The limit of open files."""

from __future__ import annotations

import contextlib
import os
import resource

from agent.settings import SettingsError

#: Descriptors without which the agent does not start: it uses about 25, half of the limit is left
#: free for reloads, and some clients must be able to connect.
MIN_DESCRIPTORS = 96


def raise_fd_limit(wanted: int = 0) -> None:
    """Raise the limit to `wanted`, or to what the hard limit allows.

    Raises SettingsError if fewer than MIN_DESCRIPTORS files can still be opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
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
