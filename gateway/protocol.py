"""HTTP/1.1 as this gateway speaks it: uvicorn's protocol, with limits and refusals where it has none.

A connection tells how much of what was written its client has taken, and can be cut off.
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.errors import ApiError

_HEADER_TIMEOUT_SEC = 30.0
_LINGER_SEC = 5.0


class Connection:
    """A client's connection as the application sees it; one stream may have it lent to write on.

    So an open stream needs no task, and none of what answered its request: that is 17 kB of memory
    and half the time of a send. A sweep that writes to thousands waits for the memory of each, so
    what a write looks at lies together.
    """

    __slots__ = (
        "_chunked",
        "_descriptor",
        "_on_left",
        "_protocol",
        "_send",
        "_transport",
        "paused",
        "written_bytes",
    )

    # What was written last, and its chunk: a sweep hands the same bytes to one after the other.
    _last: ClassVar[tuple[bytes, bytes]] = (b"", b"")

    def __init__(self, protocol: "Protocol", transport: asyncio.Transport) -> None:
        self._protocol: Protocol | None = protocol
        self._transport = transport
        found = transport.get_extra_info("socket")
        self._descriptor: int | None = None if found is None else found.fileno()
        self._on_left: Callable[[], None] | None = None
        self._send: Callable[[bytes], None] | None = None
        self._chunked = True
        self.paused = False
        self.written_bytes = 0

    def borrow(self, on_left: Callable[[], None]) -> bool:
        """Write the body of the response under way, whose head is sent. False: the client has left.

        `on_left` is called once if the client leaves before the connection is given back.
        """
        if self._protocol is None or self._transport.is_closing():
            if self._protocol is not None:
                self._protocol.disconnect()  # else the server complains of an answer without end
            return False
        self._on_left = on_left
        self._chunked = self._protocol.lend()
        self._send = self._transport.write
        self.written_bytes = 0
        return True

    def write(self, body: bytes) -> bool:
        """A part of the body. False: not sent, for the client has yet to take what was before it."""
        if self.paused:
            return False
        send = self._send
        if send is not None:  # else the client has left: nobody misses it
            self.written_bytes += len(body)
            send(_chunk(body) if self._chunked else body)
        return True

    async def writable(self) -> None:
        """Wait until `write` may be tried again."""
        if self._protocol is not None:
            await self._protocol.flow.drain()

    def give_back(self) -> None:
        """The body is whole."""
        self._on_left = self._send = None
        if self._protocol is not None:
            self._protocol.take_back(b"0\r\n\r\n" if self._chunked else b"")

    def lose(self) -> None:
        """The client has left."""
        self._protocol = self._send = None
        self.paused = False
        on_left, self._on_left = self._on_left, None
        if on_left is not None:
            on_left()

    def unsent(self) -> int:
        size = self._transport.get_write_buffer_size()
        if self._descriptor is not None and not self._transport.is_closing():
            # What the kernel still holds; without it a client that reads slowly out of a full
            # kernel buffer looks like one that does not read at all.
            try:
                answer = fcntl.ioctl(self._descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
                size += int(struct.unpack("i", answer)[0])
            except OSError:
                return size
        return size

    def abort(self) -> None:
        self._transport.abort()


def _chunk(body: bytes) -> bytes:
    if Connection._last[0] is not body:
        Connection._last = body, b"%x\r\n%b\r\n" % (len(body), body)
    return Connection._last[1]


class _Writer:
    """The transport as a response sees it.

    To close is to let the client take its answer first. The head of a response waits for what comes
    next in the same turn of the loop: a system call costs as much as all the routing of a request.
    """

    __slots__ = ("_flushing", "_head", "_loop", "_transport", "close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._flushing: asyncio.Handle | None = None
        self.write: Callable[[bytes], None] = transport.write
        self.is_closing = transport.is_closing
        self.close = close

    def begin_response(self) -> None:
        """What is written next is a head."""
        self.flush()
        self.write = self._hold

    def _hold(self, head: bytes) -> None:
        self._head = head
        self.write = self._join
        self._flushing = self._loop.call_soon(self.flush)

    def _join(self, body: bytes) -> None:
        head, self._head = self._head, b""
        self.write = self._transport.write
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        self._transport.write(head + body)

    def flush(self) -> None:
        if self._head:
            self._join(b"")

    def end(self) -> None:
        """Whatever would be written has no place any more."""
        self._head = b""
        self.write = self._drop

    def _drop(self, body: bytes) -> None:
        pass

    def release(self) -> None:
        """Let go of the connection, which is lost: else each holds the other until a gc run."""
        self.write, self.close = self._transport.write, self._transport.close
        self._head = b""


def _without_chunks(cycle: RequestResponseCycle, app: Any) -> Any:
    """The application for an HTTP/1.0 client: the end of the connection is the end of the body.

    uvicorn sends chunks, whose sizes such a client would take for a part of the stream.
    """

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_plain(message: Message) -> None:
            cycle.chunked_encoding = False
            if message["type"] == "http.response.body":
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return plain


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with a limit for heads, and refusals in JSON."""

    header_bytes: ClassVar[int]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Bytes since the last that were the end of a head or a part of a body: what is left is
        # a head, or the trailers and extensions of chunks, and must not go on for ever.
        self._unframed = 0
        self._in_head = True
        self._begun = False  # its first bytes have come, its last have not
        self._too_large = False
        self._lingering: asyncio.TimerHandle | None = None
        self.writer = _Writer(transport, self._close)
        self._connection = Connection(self, transport)
        self._extensions: dict[str, dict[object, object]] = {
            "playhead": {"connection": self._connection}
        }
        self._running: RequestResponseCycle
        self._lent = False
        self._held = b""  # what a client sent while its connection was lent
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()

    def _await_head(self) -> None:
        """The head under way must end in time."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEADER_TIMEOUT_SEC, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        if self._lingering is not None:
            self._lingering.cancel()
        self.writer.release()
        super().connection_lost(exc)
        self.disconnect()
        self._connection.lose()

    def disconnect(self) -> None:
        """Tell the response under way, where uvicorn tells the one to the newest request."""
        if self.cycle is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if not self._in_head or self.transport.is_closing():
            return
        if self.cycle is not None and (self._lent or not self._running.response_complete):
            self._await_head()  # what was asked before is being answered, and nobody reads on
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._lingering is not None:
            return
        if self._lent:
            self._held += data
            self.flow.pause_reading()
            return
        self._unframed += len(data)
        super().data_received(data)
        if self._begun:
            self._await_head()
        if self._unframed > self.header_bytes and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("Request head is too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._begun = True
        self.scope["extensions"] = self._extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer is no header: it came past whoever checked those
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("not HTTP/1.0 or HTTP/1.1")  # the parser makes it a refusal
        super().on_headers_complete()
        self._in_head, self._begun, self._unframed = False, False, 0
        self._stop_head_timer()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.writer.begin_response()
        self._running = cycle
        cycle.transport = self.writer  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            app = _without_chunks(cycle, app)
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._unframed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        # Bytes that come next begin a new head.
        self._in_head = True
        super().on_message_complete()

    def lend(self) -> bool:
        """Let go of the response under way, but for the end of its body. True: it is sent in chunks."""
        self.writer.flush()
        cycle = self._running
        # For the server it has ended: the task that began it may end, and all that it needed goes.
        cycle.response_complete = True
        begun, cycle.scope = self.scope is not cycle.scope, {}  # type: ignore[typeddict-item]
        if not begun:  # else they are the next request's, which has come already, or its first half
            self.scope, self.headers = cycle.scope, []
        self._lent = True
        self.flow.resume_reading()  # else nobody would see the client leave
        return bool(cycle.chunked_encoding)

    def take_back(self, rest: bytes) -> None:
        """The response has ended with this: what the client asks next may be answered."""
        self._lent = False
        self.writer.write(rest)
        if not self._running.keep_alive:
            self.writer.close()
        self.on_response_complete()
        held, self._held = self._held, b""
        if held and not self.transport.is_closing():
            self.data_received(held)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._connection.paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._connection.paused = False

    def shutdown(self) -> None:
        if self._lent:
            self._running.keep_alive = False
        else:
            super().shutdown()

    def on_response_complete(self) -> None:
        if self._lingering is None:
            super().on_response_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        # The request is answered as plain HTTP, as RFC 9110 §7.8 allows. The parser reads no
        # more after it, so there can be no other.
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        if self.transport.is_closing() or self._lingering is not None:
            return
        cycle = self.cycle
        running = None if cycle is None else self._running
        if running is not None and running.response_started and not running.response_complete:
            self.transport.close()  # a refusal would stand in the middle of that response
            return
        if cycle is not None and cycle.response_complete and not self._in_head:
            self._linger()  # the request that this is the rest of was answered already
            return
        status = 431 if self._too_large else 400
        code = "HEADERS_TOO_LARGE" if self._too_large else "INVALID_HTTP"
        request_id = str(uuid4())
        body = msgspec.json.encode(ApiError(status, code, "Bad Request", msg).body(request_id))
        reason = "Request Header Fields Too Large" if self._too_large else "Bad Request"
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"x-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (status, reason.encode(), len(body), request_id.encode(), body)
        )
        self.disconnect()  # what would be answered now has no place any more
        self._connection.lose()
        self._linger()

    def _close(self) -> None:
        """After the last response of this connection."""
        self.writer.flush()
        if self._in_head:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close when the client has, or soon.

        Bytes that are not read when a connection is closed make the kernel reset it, and the
        client loses the answer that told it why.
        """
        if self._lingering is None and not self.transport.is_closing():
            self.writer.end()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.flow.resume_reading()
            self._lingering = self.loop.call_later(_LINGER_SEC, self.transport.abort)


def protocol(*, header_bytes: int) -> type[asyncio.Protocol]:
    """The protocol with this limit; uvicorn makes one of it for each connection."""
    return type("LimitedProtocol", (Protocol,), {"header_bytes": header_bytes})
