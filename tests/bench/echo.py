"""The floor of every server on this event loop: it sends back what it gets. `echo.py SOCKET`."""

import asyncio
import sys
from typing import cast

import uvloop


class Echo(asyncio.Protocol):
    """Writes back each read as it came."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def serve(path: str) -> None:
    """Echo on the Unix socket `path` until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Echo, path)
    await server.serve_forever()


def main() -> None:
    """Serve on uvloop, as the agent does."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1]))


main()
