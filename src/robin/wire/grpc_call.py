"""The client half of one HTTP/2 connection that carries gRPC calls, unary or streamed by the server, one at a time; sans-I/O.

Bytes in by `receive`, bytes out by `outgoing`; `response` is set when the call has ended, whatever the peer did. The peer may be hostile:
what it sends from one `begin`, or one streamed message, to the next is bounded in bytes and frames, a message in size; anything against the
protocol ends the connection (`usable` False) and never raises. GOAWAY frames are read here: h2 would drop the call that they let finish
(RFC 9113 6.8).
"""

from collections.abc import Iterator, Sequence
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
from h2.settings import SettingCodes, Settings

from robin.model.secret import Secret
from robin.wire.grpc import GrpcResponse, code_of_http, code_of_reset, code_of_status, parse_message, parse_status_text, render_message

REPLY_LIMIT_BYTES: Final = 1 << 20
_RECEIVED_LIMIT_BYTES: Final = 2 << 20  # per call, frames and all; what an idle connection may send is the same count
_RECEIVED_LIMIT_FRAMES: Final = 4096
_FRAME_HEAD_BYTES: Final = 9
_FRAME_LIMIT_BYTES: Final = 16384  # SETTINGS_MAX_FRAME_SIZE that we leave at its initial value
_GOAWAY: Final = 0x7
_GOAWAY_LEAST_BYTES: Final = 8
_TIMEOUT_LIMIT_MS: Final = 99_999_999  # grpc-timeout: at most 8 digits
_MESSAGES_MAX: Final = 16  # of a streamed call, not taken yet
_CALLS_MAX: Final = 1000  # per connection: h2 remembers every stream that it closed
_SETTINGS: Final = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: 65536}

Header = tuple[bytes, bytes]


class GrpcClientConnection:
    """One connection. `usable`: a further call may begin. `response`: how the call ended, None while it runs.

    `messages`: of a streamed call, those that arrived and were not taken yet.
    """

    def __init__(self, authority: str) -> None:
        self._authority = authority.encode("ascii")
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self._h2.local_settings = Settings(client=True, initial_values=_SETTINGS)
        self._h2.initiate_connection()
        self._partial = b""  # of a frame that has not arrived whole
        self._received_bytes = 0
        self._received_frames = 0
        self._pending = b""  # of the request, until the peer's window takes it
        self._calls = 0
        self._stream = 0  # of the call that runs; 0: none
        self._headers: dict[bytes, bytes] = {}
        self._trailers: dict[bytes, bytes] | None = None
        self._body = bytearray()
        self._streamed = False
        self.messages: list[Secret] = []
        self.usable = True
        self.response: GrpcResponse | None = None

    @property
    def idle(self) -> bool:
        """Whether no call is running."""
        return self._stream == 0

    def outgoing(self) -> bytes:
        """What is to be sent."""
        return self._h2.data_to_send()

    def begin(self, path: str, metadata: Sequence[Header], message: bytes, *, timeout_s: float | None) -> None:
        """Start a call, only on a usable connection with no call running. `timeout_s` is sent to the peer; None: a streamed call."""
        if self._stream or not self.usable:
            raise RuntimeError("a call is running, or the connection cannot be used")
        self.response = None
        self._calls += 1
        self._received_bytes = self._received_frames = 0
        self._headers, self._trailers, self._body = {}, None, bytearray()
        self._streamed, self.messages = timeout_s is None, []
        self._pending = render_message(message)
        timeout = [] if timeout_s is None else [(b"grpc-timeout", b"%dm" % min(max(1, round(timeout_s * 1000)), _TIMEOUT_LIMIT_MS))]
        headers: list[Header] = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode("ascii")),
            (b":authority", self._authority),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *timeout,
            (b"user-agent", b"robin"),
            *metadata,
        ]
        try:
            self._stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(self._stream, headers)
            self._pump()
        except Exception as error:  # noqa: BLE001 - h2 refuses with a dozen classes: the peer's settings forbid a stream, ids are used up
            self.usable, self._stream, self._pending = False, 0, b""
            self.response = GrpcResponse(code="Unavailable", text=f"no call can begin: {type(error).__name__}")

    def receive(self, chunk: bytes) -> None:
        """Bytes of the peer."""
        self._received_bytes += len(chunk)
        if self._received_bytes > _RECEIVED_LIMIT_BYTES:
            self._break("ResourceExhausted", "the peer sends without end")
        try:
            for frame in self._frames(chunk):
                for event in self._h2.receive_data(frame):
                    self._take(event)
            self._pump()
        except Exception as error:  # noqa: BLE001 - whatever h2, hpack or hyperframe make of hostile bytes, the connection is over
            self._break("Unavailable", f"the peer does not speak HTTP/2: {type(error).__name__}")

    def lost(self) -> None:
        """The connection is gone."""
        self._break("Unavailable", "the connection closed before the answer")

    def cancel(self) -> None:
        """Cancel the running call; the connection stays usable."""
        self._end(GrpcResponse(code="Canceled"), reset=True)

    def _frames(self, chunk: bytes) -> Iterator[bytes]:
        """Whole frames, without GOAWAY; nothing more once the connection is broken."""
        waiting, at = self._partial + chunk, 0
        while len(waiting) - at >= _FRAME_HEAD_BYTES and (self.usable or self._stream):
            body = at + _FRAME_HEAD_BYTES
            end = body + int.from_bytes(waiting[at : at + 3], "big")
            if end - body > _FRAME_LIMIT_BYTES:
                raise ValueError("frame too large")
            if len(waiting) < end:
                break
            self._received_frames += 1
            if self._received_frames > _RECEIVED_LIMIT_FRAMES:
                raise ValueError("frames without end")
            if waiting[at + 3] == _GOAWAY:
                self._take_goaway(waiting[body:end])
            else:
                yield waiting[at:end]
            at = end
        self._partial = waiting[at:]

    def _take_goaway(self, payload: bytes) -> None:
        """No further call may begin; the running one may finish if the peer still processes it."""
        if len(payload) < _GOAWAY_LEAST_BYTES:
            raise ValueError("GOAWAY too short")
        self.usable = False
        if self._stream > int.from_bytes(payload[:4], "big") & 0x7FFFFFFF:
            self._end(GrpcResponse(code="Unavailable", text="the peer is going away"))

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            if event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if event.stream_id == self._stream:
                self._take_body(event.data)
        elif getattr(event, "stream_id", None) != self._stream or not self._stream:
            return  # of the connection, or of a call given up
        elif isinstance(event, h2.events.ResponseReceived):
            self._take_head(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            self._trailers = dict(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            self._end(self._conclude())
        elif isinstance(event, h2.events.StreamReset):
            self._end(GrpcResponse(code=code_of_reset(int(event.error_code)), text=f"the peer reset the call ({int(event.error_code)})"))

    def _take_head(self, headers: Sequence[Header]) -> None:
        self._headers = dict(headers)
        status = int(self._headers.get(b":status", b"0"))
        if b"grpc-status" in self._headers:
            return
        if status != 200:
            self._end(GrpcResponse(code=code_of_http(status), text=f"HTTP status {status}"), reset=True)
        elif not self._headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self._end(GrpcResponse(code="Unknown", text="the peer is no gRPC server"), reset=True)

    def _take_body(self, piece: bytes) -> None:
        self._body += piece
        if len(self._body) > REPLY_LIMIT_BYTES + 5 or int.from_bytes(self._body[1:5], "big") > REPLY_LIMIT_BYTES:
            self._end(GrpcResponse(code="ResourceExhausted", text=f"the reply is larger than {REPLY_LIMIT_BYTES} bytes"), reset=True)
        elif self._streamed:
            self._take_messages()

    def _take_messages(self) -> None:
        """Whole messages of a streamed call; each starts the count of what the peer may send anew."""
        while len(self._body) >= 5 and len(self._body) >= (end := 5 + int.from_bytes(self._body[1:5], "big")):
            message = parse_message(bytes(self._body[:end]))
            if message is None:
                self._end(GrpcResponse(code="Internal", text="the answer holds a compressed message"), reset=True)
                return
            del self._body[:end]
            if len(self.messages) >= _MESSAGES_MAX:
                self._end(GrpcResponse(code="ResourceExhausted", text="messages without end"), reset=True)
                return
            self.messages.append(Secret(message))
            self._received_bytes = self._received_frames = 0

    def _conclude(self) -> GrpcResponse:
        """The stream ended: its status is in the trailers, or in the only headers where nothing else came (Trailers-Only)."""
        last = self._trailers if self._trailers is not None else {} if self._body else self._headers
        status = last.get(b"grpc-status")
        if status is None:
            return GrpcResponse(code="Unknown", text="the answer ended without a grpc-status")
        code, text = code_of_status(status), parse_status_text(last.get(b"grpc-message", b""))
        if code != "OK":
            return GrpcResponse(code=code, text=text)
        if self._streamed:
            return GrpcResponse(code="OK", text=text) if not self._body else GrpcResponse(code="Internal", text="a message was cut short")
        message = parse_message(bytes(self._body))
        if message is None:
            return GrpcResponse(code="Internal", text="the answer does not hold exactly one plain message")
        return GrpcResponse(code="OK", text=text, body=Secret(message))

    def _pump(self) -> None:
        """Send as much of the request as the peer's window takes."""
        while self._pending and self._stream:
            size = min(len(self._pending), self._h2.local_flow_control_window(self._stream), self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            piece, self._pending = self._pending[:size], self._pending[size:]
            self._h2.send_data(self._stream, piece, end_stream=not self._pending)

    def _end(self, response: GrpcResponse, *, reset: bool = False) -> None:
        """The call has ended; its parts are freed."""
        stream, self._stream = self._stream, 0
        if not stream:
            return
        self.usable = self.usable and self._calls < _CALLS_MAX
        self.response = response
        self._pending, self._body, self._headers, self._trailers = b"", bytearray(), {}, None
        if reset or not self._is_closed(stream):
            try:
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            except Exception:  # noqa: BLE001 - it was closed already, in one of the ways h2 distinguishes
                return

    def _is_closed(self, stream: int) -> bool:
        found = self._h2.streams.get(stream)
        return found is None or found.closed

    def _break(self, code: str, text: str) -> None:
        """The connection cannot be used any more; the running call has failed."""
        self.usable = False
        self._partial = b""
        self._end(GrpcResponse(code=code, text=text))
