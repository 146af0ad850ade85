# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""One connection of the native engine: its socket, its decoder and its send buffer.

A channel only sends and receives. Pings, the closing handshake and events are in
`websocket_handler.connection`, whose `Connection` derives from `Channel`; the methods that a
channel calls there begin with an underscore and are listed in `interface.ChannelEvents`.

The path of the bytes: `receive` reads into the engine's shared buffer, or directly into a large
message; `decode` and `deliver` call the listener. The frames that the listener sends collect in
`out`, and one `flush` per read sends them.
"""

from contextvars import Context
from functools import partial
from os import strerror

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc cimport errno as libc_errno
from libc.errno cimport EAGAIN, EINTR, EPIPE, errno
from libc.stdint cimport UINT32_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset
from posix.unistd cimport close

from .codec import HAS_DEFLATE
from .codec cimport (
    DECODER_CLOSE,
    DECODER_MESSAGE,
    DECODER_NO_MEMORY,
    DECODER_PING,
    DECODER_PONG,
    DECODER_NEED_DATA,
    DECODER_VIOLATION,
    FRAME_CONTROL_BIT,
    FRAME_FIN,
    FRAME_MAX_HEADER,
    FRAME_RSV1,
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_TEXT,
    DeflateContext,
    ConnectionLimits,
    decoder_event,
    decoder_free,
    decoder_kind,
    decoder_next,
    decoder_received,
    decoder_want,
    deflater,
    deflater_give,
    deflater_run,
    deflater_take,
    frame_header_write,
    mask_apply,
    masking_key,
    spare_streams,
    take_bytes,
    take_message,
    take_reason,
)
from .engine cimport (
    FIRST_SEND_BUFFER,
    RECEIVE_SIZE,
    EpollEngine,
    ListenerContext,
    Timed,
    monotonic_ms,
    wheel_cancel,
    wheel_set,
)
from .linux cimport *
from .tls_connection cimport TlsConnection


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    object PyObject_CallOneArg(object call, object argument)
    void *PyObject_Malloc(size_t size)
    void PyObject_Free(void *memory)


cdef enum:
    LARGE = 16384             # bytes: payloads from this size are not copied if possible
    SLOW_READ = 4096          # bytes read in one iteration if decoding them takes long
    DEFLATE_NOGIL_MIN = 65536   # bytes: messages from this size are compressed without the GIL
    CORK_LIMIT = 65536    # bytes that may wait for the end of an iteration
    DELEGATE_LIMIT = 16384      # bytes that another thread may leave to the engine's thread
    RULES_KEPT = 256          # `ConnectionLimits` kept, shared by connections with equal settings
    TRANSPORT_SEND_SIZE = 1 << 18  # bytes passed to a transport in one call
    TLS_RECORD = 1 << 14      # bytes passed to OpenSSL in one call, which writes one record
    MAX_LAST_READS = 64       # reads of received data after sending has failed
    READING = EPOLLIN | EPOLLRDHUP
    PEER_FINISHED = 1         # `hang_up`: the peer has ended its sending direction
    PEER_GONE = 2             # `hang_up`: the peer has ended both directions
    UNREAD = 1                # `unread`: the layer may have data that epoll does not report
    READ_POSTED = 2           # `unread`: a posted call will read that data
    DRAIN_POSTED = 1          # `posted`: `_emit_drained` is posted
    FLUSH_POSTED = 2          # `posted`: another thread has posted `_flush_now`


cdef inline uint8_t *bytes_of(outgoing *buffer) noexcept:
    return <uint8_t *>(buffer + 1)


cdef iovec payload_of(object message) noexcept:
    """Return the address and size of the payload of a str or bytes message."""
    cdef iovec payload
    cdef Py_ssize_t size
    if isinstance(message, str):
        payload.iov_base = <void *>PyUnicode_AsUTF8AndSize(message, &size)  # cached already
        payload.iov_len = <size_t>size
    else:
        payload.iov_base = <void *>PyBytes_AS_STRING(message)
        payload.iov_len = <size_t>PyBytes_GET_SIZE(message)
    return payload


cdef class Channel(Timed):
    """Sends and receives the bytes of one connection; base class of `WebSocket`.

    Messages sent before the engine has the socket are buffered.
    """

    def __cinit__(self, *args, **kwargs):
        self._latency = -1

    def __dealloc__(self):
        if self.rules is not None:  # None if the garbage collector has cleared the attribute
            decoder_free(&self.decoder)
        free(self.out)
        PyObject_Free(self.request)

    has_codec = True
    """Whether this class has a codec for RFC 6455; otherwise the subclass needs one."""

    has_deflate = HAS_DEFLATE
    """Whether this codec can compress (built with zlib)."""

    def _bind(self, engine, settings, version, bint client, bint python_codec, agreed):
        """Set limits, codec and role, before the first byte.

        `python_codec` means that the connection has a codec in Python: received bytes are passed to
        `_feed`, and finished frames to `_write`. `agreed` are the `EndpointParameters` of
        permessage-deflate if it was negotiated.
        """
        cdef EpollEngine epoll_engine = engine
        key = settings if agreed is None else (settings, agreed)
        rules = epoll_engine.rules_by_settings.get(key)
        if rules is None:
            if len(epoll_engine.rules_by_settings) >= RULES_KEPT:
                epoll_engine.rules_by_settings.clear()
            rules = epoll_engine.rules_by_settings[key] = ConnectionLimits(settings, agreed)
        self._engine = epoll_engine
        self.rules = rules
        self.decoder.rules = &self.rules.rules
        self.decoder.expect_masked = not client
        self.python_codec = python_codec
        self.decoder.allow_1004 = bool(version._close_codes)

    @property
    def _packed_request(self):
        """The request as packed bytes; None before they were set, once."""
        if self.request is NULL:
            return None
        return PyBytes_FromStringAndSize(<char *>self.request.data, <Py_ssize_t>self.request.size)

    @_packed_request.setter
    def _packed_request(self, bytes packed not None):
        cdef size_t size = <size_t>PyBytes_GET_SIZE(packed)
        cdef packed_request *request
        if self.request is not NULL or size > UINT32_MAX:
            raise ValueError
        request = <packed_request *>PyObject_Malloc(sizeof(request.size) + size)
        if request is NULL:
            raise MemoryError
        request.size = <uint32_t>size
        memcpy(request.data, PyBytes_AS_STRING(packed), size)
        self.request = request

    def _attach_here(self, EpollEngine engine, int fd, bytes early, layer):
        """Attach the socket in the engine's thread, and process the `early` bytes."""
        cdef entry before
        self._engine = engine
        self.fd = fd
        self.layer = layer
        self.is_push = layer is not None and not layer.is_pollable
        engine.now = monotonic_ms()
        self.last_activity = <uint32_t>engine.now
        if engine.epoll_fd < 0 or not self.wait_for(READING):
            reason = "the engine was closed" if engine.epoll_fd < 0 else strerror(errno)
            self.close_descriptor()
            self._connection_lost(reason)
            self._released()
            return
        engine.link(self)
        before = self.begin_service()
        try:
            self._opened()
            self.traffic.bytes_received += <size_t>len(early)
            buffer = bytearray(early)  # unmasked in place
            self.decode(<uint8_t *><char *>buffer, len(buffer))
            if layer is not None:  # the layer may have read more data already
                self.receive_from_layer()
        except BaseException as error:
            self.input_lost(error)
        self.end_service(before)

    def _attach_inline(self, int fd):
        """Like `_attach_here`, but from any thread, if there are no early bytes and no listener to
        call. As soon as the socket is in the epoll set, the engine's thread may use this channel."""
        self._opened()
        self.last_activity = <uint32_t>monotonic_ms()
        self.fd = fd
        self._engine.link(self)
        self._set_usual_deadline()  # from now on, the engine's thread may set another one
        if self._send_state == SEND_ENDED:  # another thread has started closing meanwhile
            self._set_usual_deadline()
        self.flush()
        if not self.watched:
            self._engine._post(partial(self._drop, strerror(errno)))

    # sending

    def send(self, message, compress=None, timeout=None):
        """Send a message. Thread-safe.

        `message` is a str (sent as text), a bytes-like object (sent as binary), or an iterable
        of str or of bytes-like objects: one message with a fragment per item, each sent as soon
        as the iterable yields it (RFC 6455 section 5.4). Other messages are queued until a
        fragmented message is complete; they count in `buffered_amount`.

        Called from the engine's thread or an event loop, `send` never blocks; data that the
        operating system does not accept is buffered, up to `Settings.max_buffered` bytes. From
        any other thread, `send` blocks while more than `Settings.high_water` bytes are unsent,
        until a quarter of that is left. It does not block while reading from the peer is paused,
        by `pause()` or because more than `high_water` bytes of received messages wait to be read:
        two peers that only send would deadlock. `timeout` limits the wait in seconds, for a
        fragmented message before each fragment; default: no limit.

        Raises `ConnectionClosed` if the connection is not open, or if `max_buffered` is exceeded
        (it is then closed with 1008). Raises `TimeoutError` if the send buffer did not drain in
        time; nothing was sent, but a fragmented message that has begun is aborted and the
        connection closed with 1011. Raises `TypeError` for any other `message`, and
        `UnicodeEncodeError` for a str with a lone surrogate.

        If permessage-deflate was negotiated, a message of at least `Compression.threshold` bytes
        is compressed. `compress` overrides the threshold: True compresses, False does not. A
        message that does not shrink is sent uncompressed, and so are fragments.
        """
        cdef Py_ssize_t size = 0
        cdef const char *data = NULL
        cdef uint8_t first = 0
        if self._send_state == SEND_DIRECT and self.waiting() <= self.rules.high_water:
            if isinstance(message, str):
                data = PyUnicode_AsUTF8AndSize(message, &size)
                first = FRAME_FIN | OPCODE_TEXT
            elif isinstance(message, bytes):
                data = PyBytes_AS_STRING(message)
                size = PyBytes_GET_SIZE(message)
                first = FRAME_FIN | OPCODE_BINARY
        if not first:
            self._send_slow_path(message, compress, timeout)
        elif compress is None and <size_t>size < self.rules.compress_from:
            self.write_frame(first, <const uint8_t *>data, <size_t>size, message)
        else:
            self.write_message(first, <const uint8_t *>data, <size_t>size, message, compress, False)

    @property
    def buffered_amount(self):
        """Bytes accepted by `send` that the operating system has not accepted yet."""
        return self.waiting()

    @property
    def _is_client(self):
        """Whether this end is the client."""
        return self.masks()

    @property
    def _blocked(self):
        """Whether the socket's send buffer is full: data waits for the peer to read."""
        return bool(self.interest & EPOLLOUT)

    def _write_message(self, message, compress, bint held=False):
        """Send a str or bytes. Returns False, without sending, if sending has ended or a fragmented
        message is being sent; `held` is a message that was queued behind that one."""
        cdef Py_ssize_t size
        cdef iovec payload
        if not self.can_send(held):
            return False
        is_text = isinstance(message, str)
        if is_text:
            PyUnicode_AsUTF8AndSize(message, &size)
        payload = payload_of(message)
        self.write_message(
            FRAME_FIN | (OPCODE_TEXT if is_text else OPCODE_BINARY),
            <const uint8_t *>payload.iov_base, payload.iov_len, message, compress, held)
        return True

    @cython.final
    cdef bint write_message(
        self, uint8_t first, const uint8_t *data, size_t size,
        object message, object compress, bint held
    ) except -1:
        """Send a whole message as one frame, compressed if the rules or `compress` say so."""
        cdef bint wanted = size >= self.rules.compress_from if compress is None else compress
        if wanted and size and self.rules.deflate_window_bits:
            return self.send_deflated(first, data, size, message, held)
        return self.write_frame(first, data, size, message)

    def _counts(self):
        """Return the counts in the order of the fields of `Traffic`.

        A connection with a codec in Python counts its messages and sent frames with `_count`; its
        decoder counts the received frames.
        """
        return (
            self.traffic.messages_received, self.traffic.messages_sent,
            self.decoder.frames, self.traffic.frames_sent,
            self.traffic.bytes_received, self.traffic.bytes_sent,
        )

    def _count(self, int messages_received=0, int messages_sent=0, int frames_sent=0):
        self.traffic.messages_received += messages_received
        self.traffic.messages_sent += messages_sent
        self.traffic.frames_sent += frames_sent

    def _count_control_frame(self):
        """Count a received control frame. Returns whether there were too many in this second."""
        cdef uint32_t now = <uint32_t>self._engine.now
        if now - self.controls_since >= 1000:
            self.controls_since = now
            self.controls = 0
        self.controls += 1
        return self.controls > self.rules.max_control_frames

    def _stop_sending(self, flag state):
        """Enter `state`, in which `send` calls `_send_slow_path`, unless sending has ended. A
        message that another thread is compressing with this connection's context is sent first."""
        cdef DeflateContext context = self.context
        if context is not None:
            context.acquire()
        if self._send_state != SEND_ENDED:
            self._send_state = state
        if context is not None:
            context.release()

    @cython.final
    cdef bint masks(self) noexcept:
        """Whether this end is the client, which masks its frames."""
        return not self.decoder.expect_masked

    @cython.final
    cdef bint can_send(self, bint held) noexcept:
        """Whether a message may be sent now; `held` is one that waited for a fragmented message."""
        return (self._send_state == SEND_DIRECT
                or (held and self._send_state == SEND_FRAGMENTED))

    def _write(self, bytes data not None):
        """Send bytes unchanged: an HTTP response, or frames of a codec in Python."""
        self.append(<const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        self.flush_or_cork()

    def _prepend(self, bytes data not None):
        """Insert bytes at the start of the send buffer. Before the engine has the socket."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t waiting = self.copied()
        cdef uint8_t *start
        self.grow(size)
        start = bytes_of(self.out) + self.out.start
        memmove(start + size, start, waiting)
        memcpy(start, PyBytes_AS_STRING(data), size)
        self.out.end += size

    def _discard_output(self):
        """Discard the send buffer and all later data frames. Before the engine has the socket."""
        self._stop_sending(SEND_ENDED)
        self.drop_output()

    def _write_frame(self, int opcode, bytes payload not None, bint fin=True):
        """Send one frame of any opcode. Returns False, without sending, for a data frame if
        sending has ended."""
        if self._send_state == SEND_ENDED and not opcode & FRAME_CONTROL_BIT:
            return False
        if opcode == OPCODE_CLOSE:
            self._send_state = SEND_ENDED
        self.write_frame(
            opcode | (FRAME_FIN if fin else 0),
            <const uint8_t *>PyBytes_AS_STRING(payload),
            <size_t>PyBytes_GET_SIZE(payload), payload)
        return True

    cdef bint send_deflated(
        self, uint8_t first, const uint8_t *data, size_t size, object message, bint held
    ) except -1:
        """Send a message compressed, or uncompressed if it does not shrink (RFC 7692 section
        7.2.1). A large message is compressed without the GIL: other threads may send meanwhile."""
        cdef uint8_t small[LARGE + 4]
        cdef uint8_t *out = small
        cdef size_t deflated_size = 0
        cdef bint is_sendable
        cdef DeflateContext context = None
        deflated = None
        if self.rules.deflate_takeover:
            if self.context is None:
                self.context = DeflateContext()
            context = self.context
            context.acquire()
        try:
            if size > LARGE:
                deflated = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size + 4)
                out = <uint8_t *>PyBytes_AS_STRING(deflated)
            if self.can_send(held):
                deflated_size = self.deflate(context, data, size, out)
            is_sendable = self.can_send(held)  # may have changed
        finally:
            if context is not None:  # the GIL is held until the frame is written
                context.release()
        if not is_sendable:
            self._send_slow_path(message, True)
        elif deflated_size == 0:
            self.write_frame(first, data, size, message)
        else:
            try:
                if deflated_size >= LARGE:
                    deflated = PyBytes_FromStringAndSize(<char *>out, <Py_ssize_t>deflated_size)
                    out = <uint8_t *>PyBytes_AS_STRING(deflated)
                self.write_frame(first | FRAME_RSV1, out, deflated_size, deflated)
            except MemoryError:
                self.forget_context()  # the peer never receives this message
                raise
        return True

    cdef void forget_context(self) noexcept:
        """Reset the compression context: the next message must not refer to earlier ones."""
        cdef DeflateContext context = self.context
        if context is not None:
            context.acquire()
            context.forget()
            context.release()

    cdef size_t deflate(
        self, DeflateContext context, const uint8_t *data, size_t size, uint8_t *out
    ) noexcept:
        """Compress into `out`. Returns the compressed size; 0 to send the message uncompressed."""
        cdef ConnectionLimits rules = self.rules
        cdef deflater *stream = NULL
        cdef size_t deflated_size
        if context is not None:
            stream = context.deflater
        if stream is NULL:
            stream = deflater_take(
                &spare_streams, rules.deflate_window_bits, rules.level, rules.memory_level)
        if stream is NULL:
            return 0
        if size < DEFLATE_NOGIL_MIN:
            deflated_size = deflater_run(stream, data, size, out)
        else:
            with nogil:
                deflated_size = deflater_run(stream, data, size, out)
        if context is not None:
            context.deflater = stream
        else:
            deflater_give(&spare_streams, stream)
        return deflated_size

    @cython.final
    cdef size_t copied(self) noexcept:
        """Return the number of bytes in `out`."""
        return self.out.end - self.out.start if self.out is not NULL else 0

    @cython.final
    cdef size_t waiting(self) noexcept:
        cdef size_t waiting = self.copied()
        if self.large is not None:
            waiting += self.large_left()
        return waiting

    cdef size_t large_left(self) noexcept:
        """Return the number of unsent bytes of the payload that is sent without a copy."""
        return payload_of(self.large).iov_len - self.large_sent

    @cython.final
    cdef bint write_frame(
        self, uint8_t first, const uint8_t *data, size_t size, object owner
    ) except -1:
        """Send one frame; `owner` is the object that holds the payload."""
        cdef uint8_t header[FRAME_MAX_HEADER]
        cdef uint8_t key[4]
        cdef size_t header_size
        cdef uint8_t *place
        self.traffic.frames_sent += 1
        if first & (FRAME_FIN | FRAME_CONTROL_BIT) == FRAME_FIN:
            self.traffic.messages_sent += 1
        if self.masks():
            masking_key(key)
            place = self.grow(FRAME_MAX_HEADER + size)
            header_size = frame_header_write(place, first, size, key)
            mask_apply(place + header_size, data, size, key, 0)
            self.out.end += header_size + size
        elif size >= LARGE and self.can_send_through():
            header_size = frame_header_write(header, first, size, NULL)
            self.send_through(header, header_size, data, size, owner)
        else:
            place = self.grow(FRAME_MAX_HEADER + size)
            header_size = frame_header_write(place, first, size, NULL)
            memcpy(place + header_size, data, size)
            self.out.end += header_size + size
        self.flush_or_cork()
        return True

    cdef bint write_prepared(self, bytes frame) except -1:
        """Send the frame of a message that was built for many connections (`fanout`). Returns
        False, without sending, if `send` would not send it now or the send buffer is above
        high water."""
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(frame)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(frame)
        if data[0] & FRAME_RSV1:  # the peer's context will contain this message, ours does not
            self.forget_context()  # the GIL is held until the frame is written
        if self._send_state != SEND_DIRECT or self.waiting() > self.rules.high_water:
            return False
        self.traffic.frames_sent += 1
        self.traffic.messages_sent += 1
        if size >= LARGE and self.can_send_through():
            self.send_through(NULL, 0, data, size, frame)
        elif self.fd >= 0 and self.layer is None and not self.waiting():
            self.large = frame  # shared by all members: no member needs a buffer
            self.large_sent = 0
        else:
            self.append(data, size)
        self.flush_or_delegate()
        return True

    @cython.final
    cdef bint can_send_through(self) noexcept:
        return (self.large is None and self.layer is None
                and self.fd >= 0 and not self.interest & EPOLLOUT)

    cdef bint send_through(
        self, const uint8_t *header, size_t header_size,
        const uint8_t *data, size_t size, object owner
    ) except -1:
        """Send a large frame without copying its payload. If the payload is sent in part, the rest
        is sent later, also without a copy."""
        cdef iovec parts[3]
        cdef msghdr message
        cdef ssize_t sent
        cdef outgoing *out = self.out
        cdef size_t ahead = self.copied()
        parts[0].iov_base = bytes_of(out) + out.start if ahead else NULL
        parts[0].iov_len = ahead
        parts[1].iov_base = <void *>header
        parts[1].iov_len = header_size
        parts[2].iov_base = <void *>data
        parts[2].iov_len = size
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = 3
        sent = max(sendmsg(self.fd, &message, MSG_NOSIGNAL), 0)  # `flush` handles an error
        self.traffic.bytes_sent += <size_t>sent
        if ahead:
            out.start += min(<size_t>sent, ahead)
        if <size_t>sent >= ahead + header_size:
            if <size_t>sent < ahead + header_size + size:
                self.large = owner
                self.large_sent = <size_t>sent - ahead - header_size
            return True
        sent = max(sent - <ssize_t>ahead, 0)
        try:
            if header_size:
                self.append(header + sent, header_size - <size_t>sent)
            self.append(data, size)
        except MemoryError:  # a part of the frame may have been sent
            self.lose_output("out of memory")
            raise
        return True

    @cython.final
    cdef ssize_t send_waiting(self) noexcept:
        """Send the buffered data with one system call; returns the result of that call."""
        cdef outgoing *out = self.out
        cdef iovec parts[2]
        cdef msghdr message
        cdef size_t rest
        cdef ssize_t sent
        if self.layer is not None:
            return self.send_to_transport() if self.is_push else self.send_by_tls()
        if self.large is None:
            sent = send(
                self.fd, bytes_of(out) + out.start, out.end - out.start, MSG_NOSIGNAL)
            out.start += <size_t>max(sent, 0)
            return sent
        parts[0] = payload_of(self.large)
        rest = parts[0].iov_len - self.large_sent
        parts[0].iov_base = <uint8_t *>parts[0].iov_base + self.large_sent
        parts[0].iov_len = rest
        if not self.copied():
            sent = send(self.fd, parts[0].iov_base, rest, MSG_NOSIGNAL)
            self.large_sent += <size_t>max(sent, 0)
            return sent
        parts[1].iov_base = bytes_of(out) + out.start
        parts[1].iov_len = out.end - out.start
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = 2
        sent = sendmsg(self.fd, &message, MSG_NOSIGNAL)
        if sent > 0 and <size_t>sent < rest:
            self.large_sent += <size_t>sent
        elif sent > 0:
            self.large = None
            out.start += <size_t>sent - rest
        return sent

    cdef ssize_t send_to_transport(self) noexcept:
        """Like `send_waiting`, but to an asyncio transport."""
        cdef size_t size = min(self.copied(), <size_t>TRANSPORT_SEND_SIZE)
        try:
            return self.sent_by_layer(
                self.layer.send((<char *>bytes_of(self.out) + self.out.start)[:size]))
        except BaseException:
            libc_errno.errno = EPIPE
            return -1

    cdef ssize_t send_by_tls(self) noexcept:
        """Like `send_waiting`, but through TLS."""
        cdef TlsConnection layer = self.layer
        cdef size_t size
        layer.acquire()  # a thread with a blocked listener may be in the layer
        try:
            if self.layer is None:
                raise BrokenPipeError
            size = min(self.copied(), <size_t>TLS_RECORD)
            if size == 0:  # that thread has sent everything
                return 0
            # A copy: while OpenSSL has released the GIL, others may append to `out`.
            return self.sent_by_layer(
                layer.write((<char *>bytes_of(self.out) + self.out.start)[:size]))
        except BaseException:
            libc_errno.errno = EPIPE
            return -1
        finally:
            layer.release()

    cdef ssize_t sent_by_layer(self, ssize_t sent) noexcept:
        """Take what a layer has accepted from the send buffer; returns the same as `send`."""
        self.out.start += <size_t>sent
        libc_errno.errno = EAGAIN
        return sent if sent else -1

    cdef bint append(self, const uint8_t *data, size_t size) except -1:
        memcpy(self.grow(size), data, size)
        self.out.end += size
        return True

    @cython.final
    cdef uint8_t *grow(self, size_t size) except NULL:
        """Return the address for `size` more bytes at the end of the send buffer."""
        cdef outgoing *out = self.out
        cdef size_t capacity
        if out is NULL:
            out = self.out = self._engine.take_buffer()
            if out is NULL:
                raise MemoryError
        if size > out.capacity - out.end and out.start:
            memmove(bytes_of(out), bytes_of(out) + out.start, out.end - out.start)
            out.end -= out.start
            out.start = 0
        if size > out.capacity - out.end:
            capacity = max(out.end + size, 2 * out.capacity)
            out = <outgoing *>realloc(self.out, sizeof(outgoing) + capacity)
            if out is NULL:  # there may be enough memory for the close frame
                capacity = self.out.end + size
                out = <outgoing *>realloc(self.out, sizeof(outgoing) + capacity)
            if out is NULL:
                raise MemoryError
            out.capacity = capacity
            self.out = out
        return bytes_of(out) + out.end

    @cython.final
    cdef void flush_or_cork(self) noexcept:
        """Send now, or at the end of this iteration of the engine or of its event loop."""
        cdef size_t waiting = self.waiting()
        if waiting > self.rules.high_water:
            self._above_water = True
        if self.fd < 0 or self.interest & EPOLLOUT:
            return  # not attached or released; or the engine flushes at the next EPOLLOUT
        if self._engine.owner == PyThread_get_thread_ident():
            if not self.corked:
                self.corked = self._engine.cork(self)
            if self.corked and waiting < CORK_LIMIT:
                return
        self.flush_here()

    cdef void flush_or_delegate(self) noexcept:
        """Like `flush_or_cork`, but other threads leave the flush to the engine's thread: frames
        that they write in the meantime are sent together. The caller must wake the engine."""
        if (self.fd < 0 or self._engine.owner == PyThread_get_thread_ident()
                or self.waiting() > min(self.rules.high_water, <size_t>DELEGATE_LIMIT)):
            self.flush_or_cork()
        elif not self.corked and not self.interest & EPOLLOUT:
            self._engine.corked.append(self)
            self.corked = True

    @cython.final
    cdef void flush_here(self) noexcept:
        """Send now. Only the engine's thread may write to a layer: other threads post the flush."""
        if self.layer is None or self._engine.owner == PyThread_get_thread_ident():
            self.flush()
        elif not self.posted & FLUSH_POSTED:
            self.posted |= FLUSH_POSTED
            self._engine._post(self._flush_now)

    def _flush_now(self):
        self.posted &= ~FLUSH_POSTED
        self.flush()

    cdef void flush(self) noexcept:
        cdef ssize_t sent
        if self.fd < 0:
            return
        if self.output_ended:  # the data can no longer be sent
            self.drop_output()
        while self.waiting():
            sent = self.send_waiting()
            if sent >= 0:
                self.traffic.bytes_sent += <size_t>sent
                if self.interest & EPOLLOUT:  # the peer has read data, so it is alive
                    self.last_activity = <uint32_t>self._engine.now
            elif errno == EAGAIN:
                break
            elif errno != EINTR:
                self.lose_output(strerror(errno))
                return
        if not self.waiting():
            self.drop_output()
        self.after_flush()

    cdef void lose_output(self, str reason) noexcept:
        """Sending has failed. The data that the peer sent before is still read."""
        self._send_state = SEND_ENDED
        self._output_lost = reason  # `send` in a blocked listener raises with this reason
        self.drop_output()
        self.output_ended = True
        self._above_water = False
        self.update_interest()
        self._engine._post(partial(self._run_exclusively, partial(self._read_the_rest, reason)))

    def _read_the_rest(self, str reason):
        """Deliver the received data, then release the connection."""
        cdef size_t reads = MAX_LAST_READS * (RECEIVE_SIZE // self.read_size())
        cdef uint64_t before
        while self.fd >= 0 and not (self.input_ended or self.is_reading_paused()) and reads:
            reads -= 1
            before = self.traffic.bytes_received
            if self.layer is None:
                self.receive()
            else:
                self.receive_from_layer()
            if self.traffic.bytes_received == before:
                break
        if self.busy:  # a listener has blocked: this is no longer the engine's thread
            self._run_exclusively(partial(self._read_the_rest, reason))
        else:
            self.release(reason)

    @cython.final
    cdef void after_flush(self) noexcept:
        """Update interest in events, `drain` and FIN according to the amount of unsent data."""
        cdef size_t left = self.waiting()
        if self._above_water and left <= self.rules.high_water // 4:
            self._above_water = False
            if not self.posted & DRAIN_POSTED:  # `drain` must not interrupt a listener that sends
                self.posted |= DRAIN_POSTED
                self._engine._post(self._emit_drained)
        self.update_interest()
        if left:
            return
        if self.finishing:
            if not self.output_ended:
                self.output_ended = True
                layer = self.layer
                if layer is None:
                    shutdown(self.fd, SHUT_WR)
                else:
                    with layer:
                        layer.end_output()
            if self.input_ended:
                self.release("")
        elif self._tell_when_flushed:
            self._tell_when_flushed = False
            self._flushed()

    @cython.final
    cdef void update_interest(self) noexcept:
        cdef uint32_t interest = EPOLLOUT if self.waiting() and not self.waits_for_input() else 0
        if self.input_ended:
            pass
        elif not self.is_reading_paused():
            if self.input_pending == UNREAD:
                self.input_pending = READ_POSTED
                self._engine._post(self._read_rest)
            if not (self.is_push and self.input_pending):  # a transport is paused until we have read
                interest |= READING
        elif not (self.busy or self.waits_for_peer()):
            interest |= EPOLLRDHUP
        self.wait_for(interest)

    cdef bint waits_for_input(self) noexcept:
        """Whether TLS must read before it can write. Then the flush after each read tries again:
        the socket has space all the time, so epoll would report it without end."""
        return self.layer is not None and not self.is_push and (
            <TlsConnection>self.layer).wants_input

    @cython.final
    cdef bint is_reading_paused(self) noexcept:
        """Whether reading is paused: by the application, by a blocked listener, or because the
        send buffer is above high water (server role only: if both ends paused, two peers that only
        send would deadlock). After the peer has ended the connection, `pause()` no longer applies:
        the remaining data is bounded, and the end of the connection follows it."""
        return self.busy or self.waits_for_peer() or (self.paused and not self.hang_up)

    @cython.final
    cdef bint waits_for_peer(self) noexcept:
        """Whether the peer must read buffered data before more is read from it."""
        return self._above_water and not self.masks() and self.hang_up != PEER_GONE

    cdef void note_hang_up(self, uint32_t events) noexcept:
        """Record that epoll has reported the end of one direction, or of both."""
        if events & (EPOLLHUP | EPOLLERR):
            self.hang_up = PEER_GONE
        elif not self.hang_up:
            self.hang_up = PEER_FINISHED

    def _peer_hung_up(self, uint32_t events):
        """The peer has ended the connection while its transport was paused."""
        if self.fd >= 0:
            self.note_hang_up(events)
            self.update_interest()

    cdef bint is_overrun(self) noexcept:
        """Whether the peer has ended the connection, the application has paused reading, and more
        than `max_buffered` bytes of messages wait for it."""
        try:
            return self.hang_up and self.paused and self._is_overrun()
        except BaseException:
            return True

    @cython.final
    cdef bint wait_for(self, uint32_t interest) noexcept:
        """Request these events for `ready`. Returns False if the system refuses."""
        if not self.is_push:
            return self._engine.watch(self, interest)
        self.interest = interest
        try:
            self.layer.read_on(bool(interest & EPOLLIN))
            self.layer.watch_hang_up(interest & READING == EPOLLRDHUP)
        except BaseException:
            return False
        return True

    @property
    def _reading_paused(self):
        """Whether the application has paused reading, or its listener blocks."""
        return bool(self.paused or self.busy)

    @property
    def _is_busy(self):
        """Whether a listener blocks and another thread has taken over the engine."""
        return bool(self.busy)

    @property
    def _descriptor(self):
        """The descriptor of the socket, -1 if there is none."""
        return self.layer.fileno() if self.is_push and self.layer is not None else self.fd

    @property
    def _hidden_buffer(self):
        """Maximum number of bytes in a buffer that is not counted: an asyncio transport's."""
        return TRANSPORT_SEND_SIZE if self.is_push else 0

    def _pause_reading(self, bint paused):
        """Pause or resume reading. In the engine's thread only."""
        self.paused = paused
        if self.fd >= 0:
            self.update_interest()

    def _emit_drained(self):
        if self.busy or not self.posted & DRAIN_POSTED:
            return  # `listener_returned` posts it again, or it was emitted
        self.posted &= ~DRAIN_POSTED
        if not self._above_water:  # else more was sent, and another `drain` will follow
            self._run_exclusively(self._drained)

    def _run_exclusively(self, call):
        """Make a call that may run listeners, in the engine's thread. It is postponed while a
        listener of this connection blocks in another thread, or one of another connection runs in
        this thread."""
        cdef entry before
        if self.busy:
            self._postponed = (*self._postponed, call)
        elif self._engine.current is <void *>self:
            call()
        elif self._engine.current is not NULL:
            self._engine._post(partial(self._run_exclusively, call))
        else:
            before = self.begin_service()
            try:
                call()
            except BaseException as error:
                self.fail(error)
            self.end_service(before)

    @cython.final
    cdef void drop_output(self) noexcept:
        self.large = None
        if self.out is not NULL:
            self._engine.give_buffer(self.out)
            self.out = NULL

    cdef void end_iteration(self) noexcept:
        self.corked = False
        self.flush_here()

    cdef void listener_blocked(self) noexcept:
        """The listener blocks: pause reading until it returns, but flush the data it has sent."""
        self.busy += 1
        self.corked = False
        self.flush()
        if self.fd >= 0:
            self.update_interest()

    cdef void listener_returned(self) noexcept:
        if self.busy:  # 0 in a forked child, which has abandoned the connection
            self.busy -= 1
        if self.busy:
            return
        if self.fd < 0:
            if self._discard_input:  # released meanwhile, except for the decoder, which was in use
                decoder_free(&self.decoder)
            return
        self.update_interest()
        if self.posted & DRAIN_POSTED:
            self._engine._post(self._emit_drained)
        postponed = self._postponed
        if postponed:
            self._postponed = ()
            for call in postponed:
                self._engine._post(partial(self._run_exclusively, call))

    # receiving

    cdef void ready(self, uint32_t events) noexcept:
        if self.busy:
            if events & EPOLLOUT:
                self.flush()
            if self.fd >= 0 and events & (EPOLLHUP | EPOLLERR):
                self._engine.unwatch(self)  # epoll would report it until the listener returns
            return
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.note_hang_up(events)
        if self.fd >= 0 and events & EPOLLOUT:
            self.flush()
        if self.fd >= 0 and events & ~<uint32_t>EPOLLOUT:
            if self.input_ended:
                self.release("the peer has disconnected")
            elif self.hang_up and self.is_overrun():
                self.release("the peer has disconnected, with too much unread data")
            elif self.layer is None:
                self.receive()
            else:
                self.corked = True
                if self.input_pending != READ_POSTED:
                    self.read_layer()
                self.end_iteration()

    @cython.final
    cdef void receive(self) noexcept:
        """Read once: into the payload of an incomplete large message, if there is one, and the
        rest into the buffer that all connections share."""
        cdef iovec parts[2]
        cdef decoder_event event
        cdef uint8_t *into = NULL
        cdef size_t direct = decoder_want(&self.decoder, LARGE, &into)
        cdef bytearray buffer = self._engine.receive_buffer  # another thread may replace it
        cdef uint8_t *shared = <uint8_t *>PyByteArray_AS_STRING(buffer)
        cdef ssize_t count
        cdef size_t size = self.read_size()
        if direct:
            parts[0].iov_base = into
            parts[0].iov_len = direct
            parts[1].iov_base = shared
            parts[1].iov_len = size
            count = readv(self.fd, parts, 2)
        else:
            count = recv(self.fd, shared, size, 0)
        if count <= 0:
            if count == 0:
                self.input_ended = True
                self._input_over()
            elif errno != EAGAIN and errno != EINTR:
                self.release(strerror(errno))
            return
        self.last_activity = <uint32_t>self._engine.now
        size = <size_t>count
        self.traffic.bytes_received += size
        if self._discard_input:
            return
        self.corked = True
        if direct:
            direct = min(direct, size)
            size -= direct
            self.deliver(decoder_received(&self.decoder, direct, &event), &event)
        self.decode(shared, size)
        self.end_iteration()

    @cython.final
    cdef size_t read_size(self) noexcept:
        """Return the bytes to read in one iteration. Fewer if they are decoded in Python, or may
        be compressed and become a thousand times as many: in an event loop, all connections wait.
        """
        if self.python_codec or self.rules.rules.inflate_window_bits:
            return SLOW_READ
        return RECEIVE_SIZE

    def _read_on(self):
        """Read from the layer, unless a posted call is going to."""
        if self.input_pending != READ_POSTED:
            self.serve_layer()

    def _read_rest(self):
        """Read the data that the last iteration has left in the layer."""
        self.input_pending = 0
        self.serve_layer()

    cdef void serve_layer(self) noexcept:
        """Read from the layer, outside of `EpollEngine.dispatch`."""
        cdef entry before
        if self.fd < 0 or self.input_ended:
            return
        if self.busy:
            self.input_pending = UNREAD
            return
        if self.is_overrun():
            self.release("the peer has disconnected, with too much unread data")
            return
        self._engine.now = monotonic_ms()  # a transport may call this between two iterations
        before = self.begin_service()
        self.read_layer()
        self.end_service(before)

    cdef void read_layer(self) noexcept:
        try:
            self.receive_from_layer()
        except BaseException as error:
            self.input_lost(error)

    cdef entry begin_service(self) noexcept:
        """Prepare for calls of listeners outside of `EpollEngine.dispatch`, in an empty context.
        Until `end_service`, which gets the result, `take_over` knows that this thread is in this
        channel."""
        cdef entry before
        before.current = self._engine.current
        before.iteration = self._engine.iteration
        before.context_user = self._engine.listener_context.user
        self._engine.current = self._engine.listener_context.user = <void *>self
        self.corked = True
        return before

    cdef void end_service(self, entry before) noexcept:
        self.end_iteration()
        if self._engine.iteration != before.iteration:
            self.listener_returned()
        else:
            self._engine.current = before.current
            self._engine.listener_context.user = before.context_user
            self._engine.end_if_asked()

    cdef bint receive_from_layer(self) except -1:
        """Read at most as much as from a plain socket; the next iteration reads the rest."""
        cdef size_t read_size = self.read_size()
        cdef ssize_t budget = <ssize_t>read_size
        cdef ssize_t size
        cdef bytearray buffer = None if self.is_push else self.buffer_for_reading()
        while self.fd >= 0:
            if self.is_reading_paused() or budget <= 0:
                self.input_pending = UNREAD
                return True
            layer = self.layer
            if self.is_push:
                received = layer.receive(budget)
                if received is None:
                    return True
                buffer = bytearray(received)  # unmasked in place
                size = PyByteArray_GET_SIZE(buffer)
            else:
                size = self.read_tls(buffer, read_size)
                if size < 0:
                    return True
            if size == 0:
                self.input_ended = True
                self._input_over()
                return True
            self.last_activity = <uint32_t>self._engine.now
            budget -= size
            self.traffic.bytes_received += <size_t>size
            if not self._discard_input:
                self.decode(<uint8_t *>PyByteArray_AS_STRING(buffer), <size_t>size)
            if budget > 0 and not (
                self.is_push or (<TlsConnection>layer).has_unread_data(self.fd)
            ):
                return True
        return True

    cdef bytearray buffer_for_reading(self):
        """Return the engine's receive buffer if this thread polls the engine, else a buffer of its
        own: OpenSSL writes to it without the GIL, while the thread that polls uses the other."""
        if self._engine.owner == PyThread_get_thread_ident() and not self.busy:
            return self._engine.receive_buffer
        return bytearray(RECEIVE_SIZE)

    cdef ssize_t read_tls(self, bytearray buffer, size_t size) except -2:
        """Read one record, or `size` bytes of it; returns the same as `TlsConnection.read`. If
        another thread takes over meanwhile, it does not use `buffer`."""
        cdef TlsConnection layer = self.layer
        layer.acquire()
        try:
            return layer.read(buffer, size)
        finally:
            layer.release()

    @cython.final
    cdef void decode(self, uint8_t *data, size_t size) noexcept:
        cdef uint8_t *cursor = data
        cdef uint8_t *end = data + size
        cdef decoder_event event
        cdef decoder_kind kind
        if self.python_codec:
            self.feed_elsewhere(data, size)
        while self.fd >= 0 and not self.python_codec and not self._discard_input:
            kind = decoder_next(&self.decoder, &cursor, end, &event)
            if kind == DECODER_NEED_DATA:
                break
            self.deliver(kind, &event)
        if self._after_messages is not None:
            self.tell_all_delivered()

    cdef void feed_elsewhere(self, const uint8_t *data, size_t size) noexcept:
        try:
            self.in_listener_context(self._feed, (<const char *>data)[:size])
        except BaseException as error:
            self.input_lost(error)

    @cython.final
    cdef void tell_all_delivered(self) noexcept:
        try:
            self._after_messages()
        except BaseException as error:
            self.fail(error)

    cdef inline void deliver(self, decoder_kind kind, decoder_event *event) noexcept:
        """Process one event of the decoder. An error ends this connection only."""
        if kind == DECODER_MESSAGE:
            self.deliver_message(event)
        else:
            self.deliver_other(kind, event)

    @cython.final
    cdef void deliver_other(self, decoder_kind kind, decoder_event *event) noexcept:
        try:
            if kind == DECODER_PING:
                self._ping_received(take_bytes(event))
            elif kind == DECODER_PONG:
                self._pong_received(take_bytes(event))
            elif kind == DECODER_CLOSE:
                self._close_received(event.code, take_reason(event))
            elif kind == DECODER_VIOLATION:
                self._fail_connection(event.code, event.reason.decode("ascii"))
            elif kind == DECODER_NO_MEMORY:
                raise MemoryError("out of memory for a received message")
        except BaseException as error:
            if kind == DECODER_NO_MEMORY:
                self.input_lost(error)
            else:
                self.fail(error)

    @cython.final
    cdef void deliver_message(self, decoder_event *event) noexcept:
        cdef bint is_taken = False
        self.traffic.messages_received += 1
        try:
            message = take_message(event)
            is_taken = True
            self.call_listener(message)
        except BaseException as error:
            if is_taken:
                self.fail(error)
            else:
                self.input_lost(error)

    @cython.final
    cdef bint call_listener(self, object message) except -1:
        cdef object listener = self._message_listener
        if listener is None:
            listener = self._queue_unclaimed
        if self._engine.listener_context.user is <void *>self:
            PyObject_CallOneArg(listener, message)
            return True
        return self.in_listener_context(listener, message)

    @cython.final
    cdef bint in_listener_context(self, call, argument) except -1:
        """Call `call(argument)` in the context for listeners. A thread that another one has
        replaced, because a listener has blocked it, no longer has that context."""
        cdef ListenerContext context = self._engine.listener_context
        if self.busy:
            Context().run(call, argument)
        else:
            if context.user is not <void *>self:
                context.enter(<void *>self)
            PyObject_CallOneArg(call, argument)
        return True

    cdef void fail(self, error) noexcept:
        """Close the connection because a listener has raised."""
        try:
            self._failed(error)
        except BaseException:
            self.give_up()

    cdef void input_lost(self, error) noexcept:
        """Received data could not be processed, for lack of memory: later data cannot be read."""
        try:
            self._input_lost(error)
        except BaseException:
            self.give_up()

    cdef void give_up(self) noexcept:
        """Memory does not suffice even for closing in the usual way: drop the connection."""
        self._discard_input = True
        self._send_state = SEND_ENDED
        if self.busy:
            self._engine._post(partial(self._drop, "out of memory"))
        else:
            self.release("out of memory")

    # ending

    def _finish(self):
        """Send the buffered data, then FIN; release the socket after the peer's FIN."""
        self.finishing = True
        self._discard_input = True
        self._send_state = SEND_ENDED
        if self.fd >= 0:
            self.flush()

    def _drop(self, str reason):
        """Release the connection at once. In the engine's thread only."""
        self.release(reason)

    def _set_deadline(self, delay):
        """Call `_deadline_passed` in `delay` seconds; None cancels the deadline."""
        if self._engine is None or self.fd < 0:
            return
        if delay is None:
            wheel_cancel(&self.timer)
            return
        self._engine.now = monotonic_ms()
        wheel_set(&self._engine.timers, &self.timer, self._engine.now + <uint64_t>(delay * 1000))
        if not self._engine.serving:
            self._engine.arm()

    def _advance(self, seconds):
        """Act as if this many seconds had passed, up to a call of `_deadline_passed`, which is left
        to the caller: for `websocket_handler.testing`. In the engine's thread only. Returns the
        seconds left until the deadline, None without one."""
        cdef uint64_t passed = <uint64_t>round(seconds * 1000)
        self.last_activity -= <uint32_t>passed
        self.controls_since -= <uint32_t>passed
        if self.timer.link is NULL:
            return None
        wheel_set(&self._engine.timers, &self.timer, self.timer.due - min(self.timer.due, passed))
        return <long long>(self.timer.due - monotonic_ms()) / 1000.0

    @property
    def _last_activity(self):
        """The time of the last sign of life of the peer, in seconds of `time.monotonic`."""
        cdef uint64_t now = monotonic_ms()
        return <long long>(now - <uint32_t>(<uint32_t>now - self.last_activity)) / 1000.0

    cdef void expired(self) noexcept:
        self._deadline_passed()

    cdef void close_descriptor(self) noexcept:
        cdef int fd = self.fd
        layer = self.layer
        self.fd = -1
        if layer is None:
            close(fd)
            return
        with layer:
            self.layer = None
            layer.close()

    cdef void forget_after_fork(self) noexcept:
        layer, self.layer = self.layer, None
        if layer is None:
            if self.fd >= 0:
                close(self.fd)
        elif not self.is_push:  # without the lock: a thread of the parent may have held it
            layer.close()
        self.fd = -1
        self.interest = 0
        self.watched = False
        wheel_cancel(&self.timer)
        self._send_state = SEND_ENDED
        self._discard_input = True
        if not self.busy:  # else the blocked thread still uses it
            decoder_free(&self.decoder)
        self.context = None
        self.drop_output()
        self._abandoned()

    cdef void release(self, str reason) noexcept:
        if self.fd < 0:
            return
        wheel_cancel(&self.timer)
        if not self.is_push:
            self._engine.unwatch(self)
        self.close_descriptor()
        self._send_state = SEND_ENDED
        self._discard_input = True
        if not self.busy:  # else the blocked thread still uses it
            decoder_free(&self.decoder)
        self.context = None
        self.drop_output()
        self._engine.unlink(self)
        self._connection_lost(reason)
        self._released()
