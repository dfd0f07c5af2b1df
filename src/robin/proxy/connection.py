"""One downstream connection: from accept to close, one exchange after the other, with no pipelined look-ahead."""

import socket
from collections.abc import Awaitable, Callable

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.proxy.exchange import serve_exchange
from robin.proxy.refusal import refuse_connection

Open = Callable[[socket.socket, Downstream], Awaitable[None]]
"""Opens an accepted socket as this stream, which it may give a caller that is known better. Raises OSError."""


async def serve_connection(sock: socket.socket, caller: Caller, engine: Engine, *, open_stream: Open | None = None) -> None:
    """Serve one accepted connection to its end. `open_stream` None: without TLS."""
    downstream = Downstream(engine, caller)
    engine.metrics.downstream_connections[caller.listener] += 1
    engine.drain.connected(downstream)
    try:
        if open_stream is None:
            await engine.loop.connect_accepted_socket(lambda: downstream, sock)
        else:
            await open_stream(sock, downstream)
        if engine.callers is not None:
            engine.callers.connect(downstream)
        while await downstream.await_request() and await serve_exchange(downstream, engine):
            pass
        await downstream.finish_and_discard()
    except OSError:
        pass  # the caller disconnected before it was served
    except Fault as fault:  # its caller is at a limit
        downstream.write(refuse_connection(engine, downstream.caller, fault))
        await downstream.finish_and_discard()
    finally:
        if engine.callers is not None:
            engine.callers.disconnect(downstream)
        engine.drain.disconnected(downstream)
        engine.metrics.downstream_connections[caller.listener] -= 1
        downstream.close()
