"""The server side of one HTTP/2 connection that carries gRPC calls, without I/O; for the development Workload API."""

from dataclasses import dataclass, field
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events

from robin.wire.grpc import CODES, parse_message, render_message, render_status_text

_REQUEST_LIMIT_BYTES: Final = 65536


@dataclass(slots=True, kw_only=True)
class GrpcRequest:
    """One call as it arrived. `message` is None where the body was not exactly one plain message."""

    stream: int
    path: str
    metadata: dict[str, str]
    body: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def message(self) -> bytes | None:
        """The one message of the request."""
        return parse_message(bytes(self.body))


class GrpcServer:
    """One connection. `receive` returns whole calls; `reply` or `refuse` answers each."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self._open: dict[int, GrpcRequest] = {}
        self._streaming: set[int] = set()
        self._unsent: dict[int, tuple[bytes, list[tuple[str, str]]]] = {}

    def outgoing(self) -> bytes:
        """Return the bytes to send."""
        return self.h2.data_to_send()

    def receive(self, chunk: bytes) -> list[GrpcRequest]:
        """Return the calls that these bytes complete. Raises h2's ProtocolError, or ValueError for a request past its limit."""
        whole: list[GrpcRequest] = []
        for event in self.h2.receive_data(chunk):
            if isinstance(event, h2.events.RequestReceived):
                headers = {str(name): str(value) for name, value in event.headers}
                self._open[event.stream_id] = GrpcRequest(stream=event.stream_id, path=headers.get(":path", ""), metadata=headers)
            elif isinstance(event, h2.events.DataReceived):
                self._take_body(event)
            elif isinstance(event, h2.events.StreamEnded):
                if (request := self._open.pop(event.stream_id, None)) is not None:
                    whole.append(request)
            elif isinstance(event, h2.events.StreamReset):
                self._open.pop(event.stream_id, None)
                self._unsent.pop(event.stream_id, None)
        for stream in list(self._unsent):
            self._pump(stream)
        return whole

    def reply(self, stream: int, message: bytes) -> None:
        """Answer a call with one message and status OK."""
        if self._gone(stream):
            return
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self._unsent[stream] = (render_message(message), [("grpc-status", "0")])
        self._pump(stream)

    def stream(self, stream: int, message: bytes) -> bool:
        """Send one message of a call that stays open. Returns False once its caller has gone."""
        if self._gone(stream):
            return False
        if stream not in self._streaming:
            self._streaming.add(stream)
            self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self.h2.send_data(stream, render_message(message))
        return True

    def refuse(self, stream: int, code: str, text: str = "") -> None:
        """Answer a call with a status alone (Trailers-Only)."""
        if self._gone(stream):
            return
        head = [] if stream in self._streaming else [(":status", "200"), ("content-type", "application/grpc")]
        headers = [*head, ("grpc-status", str(CODES.index(code)))]
        self.h2.send_headers(stream, [*headers, ("grpc-message", render_status_text(text).decode("ascii"))], end_stream=True)

    def _take_body(self, event: h2.events.DataReceived) -> None:
        if event.flow_controlled_length:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if (request := self._open.get(event.stream_id)) is not None:
            request.body += event.data
            if len(request.body) > _REQUEST_LIMIT_BYTES:
                raise ValueError("the request is too large")

    def _pump(self, stream: int) -> None:
        body, trailers = self._unsent[stream]
        while body:
            size = min(len(body), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if size <= 0:
                self._unsent[stream] = (body, trailers)
                return
            piece, body = body[:size], body[size:]
            self.h2.send_data(stream, piece)
        del self._unsent[stream]
        self.h2.send_headers(stream, trailers, end_stream=True)

    def _gone(self, stream: int) -> bool:
        """Return True if the caller has cancelled this call."""
        found = self.h2.streams.get(stream)
        return found is None or found.closed
