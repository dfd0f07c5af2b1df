"""A plane made of existing parts only: it echoes lines on TCP and on a Unix socket. `python echo_plane.py DRAIN_MAX_S SOCKET_PATH`."""

import os
import socket
import sys

from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import run
from robin.model.address import TcpAddress, UnixAddress
from robin.model.caller import Caller, ListenerRule
from robin.proxy.drain import CLOSING
from robin.transport.stream import Stream, StreamClosed


class EchoConnection(Stream):
    def begin_closing(self) -> None:
        if not self.received:
            self.close()


class EchoPlane(Plane):
    def __init__(self, parts: Parts, path: str) -> None:
        self.parts = parts
        admission = parts.build_admission(connections=2, serve=self.serve, refuse=lambda _, fault: fault.detail.encode())
        addresses = (TcpAddress(host="127.0.0.1", port=0), UnixAddress(path=path))
        rule = ListenerRule(allow_uids=frozenset({os.getuid()}))
        self.listeners = (Listener(setting="listen", addresses=addresses, rule=rule, take=admission.take),)

    async def serve(self, sock: socket.socket, caller: Caller) -> None:
        parts, stream = self.parts, EchoConnection(self.parts.loop, self.parts.sweeper)
        parts.drain.connected(stream)
        parts.metrics.in_flight += 1
        try:
            await parts.loop.connect_accepted_socket(lambda: stream, sock)
            while parts.drain.state != CLOSING or stream.received:
                stream.deadline_at = parts.loop.time() + 60
                while b"\n" not in stream.received:
                    if len(stream.received) > 4096 or not await stream.fill():
                        return
                stream.write(stream.take(stream.received.index(b"\n") + 1))
                await stream.flush()
        except (OSError, TimeoutError, StreamClosed):
            pass  # the caller disconnected, or sent no whole line in time
        finally:
            parts.metrics.in_flight -= 1
            parts.drain.disconnected(stream)
            stream.close()


if __name__ == "__main__":
    settings = RuntimeSettings(plane="echo", admin=(TcpAddress(host="127.0.0.1", port=0),), drain_max_s=float(sys.argv[1]))
    raise SystemExit(run(settings, lambda parts: EchoPlane(parts, sys.argv[2]), {}))
