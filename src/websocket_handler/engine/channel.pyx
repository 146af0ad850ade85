# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""One connection of the native engine: its socket, its decoder, what it still has to send.

What happens to a connection beyond sending and receiving (pings answered, the closing
handshake, events) is in the methods of `websocket_handler.websocket.WebSocket`, which is a
`Channel`; the names of those that are called from here begin with an underscore and are
listed in `channel.pyi`.

The way of bytes: `receive` reads into the buffer that all share, or straight into a large
message; `decode` and `deliver` call the listener; what it sends collects in `out` and
leaves in one `flush` per read.
"""

from functools import partial
from os import strerror

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc cimport errno as libc_errno
from libc.errno cimport EAGAIN, EINTR, EPIPE, errno
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
    Pollable,
    monotonic_ms,
    wheel_cancel,
    wheel_set,
)
from .linux cimport *


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef enum:
    LARGE = 16384             # payloads from here on are not copied if that can be helped
    DEFLATE_NOGIL_MIN = 65536   # from this size on, other threads run meanwhile
    CORK_LIMIT = 65536    # bytes that wait for the end of a turn
    DELEGATE_LIMIT = 16384      # bytes that another thread leaves to the engine's
    RULES_KEPT = 256          # to be shared by connections with the same settings
    LAYER_SEND_SIZE = 1 << 18 # what a layer gets at once
    MAX_LAST_READS = 64       # of what arrived before the connection broke
    READING = EPOLLIN | EPOLLRDHUP
    PEER_FINISHED = 1         # `hang_up`: the peer sends nothing more,
    PEER_GONE = 2             # and receives nothing more
    UNREAD = 1                # `unread`: the layer may have more, which epoll does not see,
    READ_POSTED = 2           # and a posted call reads it


cdef inline uint8_t *bytes_of(outgoing *buffer) noexcept:
    return <uint8_t *>(buffer + 1)


cdef iovec payload_of(object message) noexcept:
    """Where the payload of a str or bytes message lies."""
    cdef iovec payload
    cdef Py_ssize_t size
    if isinstance(message, str):
        payload.iov_base = <void *>PyUnicode_AsUTF8AndSize(message, &size)  # cached by now
        payload.iov_len = <size_t>size
    else:
        payload.iov_base = <void *>PyBytes_AS_STRING(message)
        payload.iov_len = <size_t>PyBytes_GET_SIZE(message)
    return payload


cdef class Channel(Pollable):
    """One connection's bytes: what `WebSocket` is made of.

    Before the engine has the socket, what is sent collects; nothing is lost.
    """

    def __cinit__(self, *args, **kwargs):
        self.timer.owner = <void *>self
        self._latency = -1

    def __dealloc__(self):
        if self.rules is not None:  # or the garbage collector has taken them
            decoder_free(&self.decoder)
        free(self.out)

    has_codec = True
    """Whether the codec of RFC 6455 is here, and not with who derives from this."""

    has_deflate = HAS_DEFLATE
    """Whether it can compress."""

    def _bind(self, engine, settings, version, bint client, bint python_codec, agreed):
        """Choose limits, codec and role, before the first byte. If it is `foreign` the codec is
        not here: what arrives goes through `_feed`, and frames come through `_write`. `agreed`
        are the `EndpointParameters` of permessage-deflate, if it was negotiated."""
        cdef EpollEngine home = engine
        key = settings if agreed is None else (settings, agreed)
        rules = home.rules_by_settings.get(key)
        if rules is None:
            if len(home.rules_by_settings) >= RULES_KEPT:
                home.rules_by_settings.clear()
            rules = home.rules_by_settings[key] = ConnectionLimits(settings, agreed)
        self._engine = home
        self.rules = rules
        self.decoder.rules = &self.rules.rules
        self.decoder.expect_masked = not client
        self.masks = client
        self.python_codec = python_codec
        self.decoder.allow_1004 = bool(version._close_codes)

    def _attach_here(self, EpollEngine engine, int fd, bytes early, layer):
        """The engine's thread takes the socket in, and what came with it."""
        cdef entry before
        self._engine = engine
        self.fd = fd
        self.layer = layer
        self.is_push = layer is not None and not layer.is_pollable
        self.heard = engine.now = monotonic_ms()
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
            if layer is not None:  # it may have read more already
                self.receive_from_layer()
        except BaseException as error:
            self.input_lost(error)
        self.end_service(before)

    def _attach_inline(self, int fd):
        """As `_attach_here`, in any thread, where nothing came with it and nobody is to be called. From
        the moment on that epoll knows the socket, the engine's thread may be in here as well."""
        self._opened()
        self.heard = monotonic_ms()
        self.fd = fd
        self._engine.link(self)
        self._set_usual_deadline()  # the engine's thread may set another from now on
        if not self._sendable:  # or has just done so, because another thread closes already
            self._set_usual_deadline()
        self.flush()
        if not self.watched:
            self._engine.post(partial(self._drop, strerror(errno)))

    # sending

    def send(self, message, compress=None, timeout=None):
        """Send a message: text for `str`, binary for bytes-like, fragments for an iterable.

        The frame leaves at once, or together with what else the same read or listener
        gives rise to; what the peer does not take is kept (`buffered_amount`). An iterable
        of `str` or of bytes-like is sent as one message, a fragment for each item as it
        comes (RFC 6455 section 5.4); other messages wait until it is complete, and count.

        May be called from any thread. In one that is neither the engine's nor an event loop's,
        this call blocks while more than `Settings.high_water` waits to be sent, until the peer
        has caught up: for as long as a slow peer takes, or for `timeout` seconds (for each
        fragment). It does not block if high water of messages waits for the application. The
        engine's thread and event loops never wait (see `Settings.max_buffered`).

        Raises `ConnectionClosed` if the connection is not open, `TimeoutError` if the peer has
        not caught up in time, and nothing was sent (a message in fragments that has begun is
        broken off, and the connection closed with 1011), `TypeError` for anything else,
        `UnicodeEncodeError` for a lone surrogate.

        Where permessage-deflate was negotiated, a message is compressed if it is at least
        as long as `Compression.threshold`, or as `compress` says; one that does not shrink
        is sent as it is, and so are fragments.
        """
        cdef Py_ssize_t size = 0
        cdef const char *data = NULL
        cdef uint8_t first = 0
        if self._sendable and self.waiting() <= self.rules.high_water:
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
        """The bytes accepted by `send` that the operating system has not taken yet."""
        return self.waiting()

    @property
    def _is_client(self):
        """Whether the connection was opened from here."""
        return bool(self.masks)

    @property
    def _blocked(self):
        """Whether the peer is behind: the operating system would not take more."""
        return bool(self.interest & EPOLLOUT)

    def _write_message(self, message, compress, bint held=False):
        """Send a str or bytes; returns False if that may not be any more, or if another message is
        under way, and it is not `held` for that."""
        cdef Py_ssize_t size
        cdef iovec payload
        if self.close_sent or (self._fragmenting and not held):
            return False
        is_text = isinstance(message, str)
        if is_text:
            PyUnicode_AsUTF8AndSize(message, &size)
        payload = payload_of(message)
        self.write_message(
            FRAME_FIN | (OPCODE_TEXT if is_text else OPCODE_BINARY),
            <const uint8_t *>payload.iov_base, payload.iov_len, message, compress, held)
        return True

    cdef bint write_message(
        self, uint8_t first, const uint8_t *data, size_t size,
        object message, object compress, bint held
    ) except -1:
        """Send the frame of a message, compressed or not."""
        cdef bint wanted = size >= self.rules.compress_from if compress is None else compress
        if wanted and size and self.rules.deflate_window_bits:
            return self.send_deflated(first, data, size, message, held)
        return self.write_frame(first, data, size, message)

    def _counts(self):
        """What went over the connection, in the order of `Traffic`; who brings a codec counts
        messages and frames by `_count`, but the frames that come."""
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
        """Count one more control frame; whether there are too many in this second."""
        cdef uint32_t now = <uint32_t>self._engine.now
        if now - self.controls_since >= 1000:
            self.controls_since = now
            self.controls = 0
        self.controls += 1
        return self.controls > self.rules.max_control_frames

    def _stop_sending(self):
        """Have `send` leave what is sent to `_send_slow_path`; what another thread is just
        compressing in this connection's context leaves first."""
        if self.context is not None:
            self.context.acquire()
        self._sendable = False
        if self.context is not None:
            self.context.release()

    def _write(self, bytes data not None):
        """Send bytes as they are: the response to the handshake."""
        self.append(<const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        self.flush_or_cork()

    def _prepend(self, bytes data not None):
        """Put bytes before all that waits to be sent. Before the engine has the socket."""
        cdef size_t size = <size_t>PyBytes_GET_SIZE(data)
        cdef size_t waiting = self.copied()
        cdef uint8_t *start
        self.grow(size)
        start = bytes_of(self.out) + self.out.start
        memmove(start + size, start, waiting)
        memcpy(start, PyBytes_AS_STRING(data), size)
        self.out.end += size

    def _discard_output(self):
        """Forget all that waits to be sent, and send no frame of data any more. Before the
        engine has the socket."""
        self._stop_sending()
        self.close_sent = True
        self.drop_output()

    def _write_frame(self, int opcode, bytes payload not None, bint fin=True):
        """Send one frame of any kind; returns False for one of data after the close frame."""
        if self.close_sent and not opcode & FRAME_CONTROL_BIT:
            return False
        if opcode == OPCODE_CLOSE:
            self.close_sent = True
        self.write_frame(
            opcode | (FRAME_FIN if fin else 0),
            <const uint8_t *>PyBytes_AS_STRING(payload),
            <size_t>PyBytes_GET_SIZE(payload), payload)
        return True

    cdef bint send_deflated(
        self, uint8_t first, const uint8_t *data, size_t size, object message, bint held
    ) except -1:
        """Send a message compressed, or as it is if it does not shrink (RFC 7692 section
        7.2.1). While a large one is compressed, other threads run, and may send."""
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
            if self._sendable or held:
                deflated_size = self.deflate(context, data, size, out)
            is_sendable = not self.close_sent and (self._sendable or held)  # still
        finally:
            if context is not None:  # no other thread runs until the frame is written
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
                self.forget_context()  # the peer never sees this message
                raise
        return True

    cdef void forget_context(self) noexcept:
        """The next message must not refer to those before it."""
        cdef DeflateContext context = self.context
        if context is not None:
            context.acquire()
            context.forget()
            context.release()

    cdef size_t deflate(
        self, DeflateContext context, const uint8_t *data, size_t size, uint8_t *out
    ) noexcept:
        """The size of what is in `out` then; 0 if the message is to be sent as it is."""
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

    cdef size_t copied(self) noexcept:
        """The bytes in `out`."""
        return self.out.end - self.out.start if self.out is not NULL else 0

    cdef size_t waiting(self) noexcept:
        cdef size_t waiting = self.copied()
        if self.large is not None:
            waiting += payload_of(self.large).iov_len - self.large_sent
        return waiting

    cdef bint write_frame(
        self, uint8_t first, const uint8_t *data, size_t size, object owner
    ) except -1:
        """Send the frame of a payload, which lies in `owner`."""
        cdef uint8_t header[FRAME_MAX_HEADER]
        cdef uint8_t key[4]
        cdef size_t header_size
        cdef uint8_t *place
        self.traffic.frames_sent += 1
        if first & (FRAME_FIN | FRAME_CONTROL_BIT) == FRAME_FIN:
            self.traffic.messages_sent += 1
        if self.masks:
            masking_key(key)
            header_size = frame_header_write(header, first, size, key)
            place = self.grow(header_size + size)
            memcpy(place, header, header_size)
            mask_apply(place + header_size, data, size, key, 0)
            self.out.end += header_size + size
        else:
            header_size = frame_header_write(header, first, size, NULL)
            if size >= LARGE and self.can_send_through():
                self.send_through(header, header_size, data, size, owner)
            else:
                place = self.grow(header_size + size)
                memcpy(place, header, header_size)
                memcpy(place + header_size, data, size)
                self.out.end += header_size + size
        self.flush_or_cork()
        return True

    cdef bint write_prepared(self, bytes frame) except -1:
        """Send the frame of a whole message, made for many connections (`fanout`); returns
        False if that may not be now, or the peer is behind."""
        cdef const uint8_t *data = <const uint8_t *>PyBytes_AS_STRING(frame)
        cdef size_t size = <size_t>PyBytes_GET_SIZE(frame)
        if data[0] & FRAME_RSV1:  # the peer will have seen what this connection does not remember
            self.forget_context()  # no other thread runs until the frame is written
        if not self._sendable or self.waiting() > self.rules.high_water:
            return False
        self.traffic.frames_sent += 1
        self.traffic.messages_sent += 1
        if size >= LARGE and self.can_send_through():
            self.send_through(NULL, 0, data, size, frame)
        elif self.fd >= 0 and self.layer is None and not self.waiting():
            self.large = frame  # which all members share, so that none needs a buffer
            self.large_sent = 0
        else:
            self.append(data, size)
        self.flush_or_delegate()
        return True

    cdef bint can_send_through(self) noexcept:
        return (self.large is None and self.layer is None
                and self.fd >= 0 and not self.interest & EPOLLOUT)

    cdef bint send_through(
        self, const uint8_t *header, size_t header_size,
        const uint8_t *data, size_t size, object owner
    ) except -1:
        """Send a large frame from where it lies, without a copy; what the peer does not
        take now is sent from there later."""
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
        sent = max(sendmsg(self.fd, &message, MSG_NOSIGNAL), 0)  # `flush` will meet an error
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
        except MemoryError:  # some of the frame may have left
            self.lose_output("out of memory")
            raise
        return True

    cdef ssize_t send_waiting(self) noexcept:
        """One call to send all that waits; returns what the system call did."""
        cdef outgoing *out = self.out
        cdef iovec parts[2]
        cdef msghdr message
        cdef size_t rest
        cdef ssize_t sent
        if self.layer is not None:
            return self.send_by_layer()
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

    cdef ssize_t send_by_layer(self) noexcept:
        """As `send_waiting`."""
        cdef ssize_t sent
        cdef size_t size
        layer = self.layer
        try:
            with layer.lock:  # a thread that was left behind may be in it
                if self.layer is None:
                    raise BrokenPipeError
                size = min(self.copied(), <size_t>LAYER_SEND_SIZE)
                if size == 0:  # that thread has sent it all
                    return 0
                sent = layer.send((<char *>bytes_of(self.out) + self.out.start)[:size])
                self.out.start += <size_t>sent
        except BaseException:
            libc_errno.errno = EPIPE
            return -1
        libc_errno.errno = EAGAIN
        return sent if sent else -1

    cdef bint append(self, const uint8_t *data, size_t size) except -1:
        memcpy(self.grow(size), data, size)
        self.out.end += size
        return True

    cdef uint8_t *grow(self, size_t size) except NULL:
        """The place for `size` more bytes at the end of what is to be sent."""
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
            out = <outgoing *>realloc(out, sizeof(outgoing) + capacity)
            if out is NULL:
                raise MemoryError
            out.capacity = capacity
            self.out = out
        return bytes_of(out) + out.end

    cdef void flush_or_cork(self) noexcept:
        """Send now, unless this turn of the engine or of its loop has more to come."""
        if self.waiting() > self.rules.high_water:
            self._above_water = True
        if self.fd < 0 or self.interest & EPOLLOUT:
            return  # not attached yet, or gone; or the engine goes on when the peer does
        if self._engine.owner == PyThread_get_thread_ident():
            if not self.corked:
                self.corked = self._engine.cork(self)
            if self.corked and self.waiting() < CORK_LIMIT:
                return
        self.flush_here()

    cdef void flush_or_delegate(self) noexcept:
        """As `flush_or_cork`, but threads that are not the engine's leave sending to it, and
        have to wake it: what they write meanwhile leaves together."""
        if (self.fd < 0 or self._engine.owner == PyThread_get_thread_ident()
                or self.waiting() > min(self.rules.high_water, <size_t>DELEGATE_LIMIT)):
            self.flush_or_cork()
        elif not self.corked and not self.interest & EPOLLOUT:
            self._engine.corked.append(self)
            self.corked = True

    cdef void flush_here(self) noexcept:
        """Send now; a layer bears but one thread, the engine's."""
        if self.layer is None or self._engine.owner == PyThread_get_thread_ident():
            self.flush()
        elif not self.flush_due:
            self.flush_due = True
            self._engine.post(self._flush_now)

    def _flush_now(self):
        self.flush_due = False
        self.flush()

    cdef void flush(self) noexcept:
        cdef ssize_t sent
        if self.fd < 0:
            return
        if self.output_ended:  # nobody would get it
            self.drop_output()
        while self.waiting():
            sent = self.send_waiting()
            if sent >= 0:
                self.traffic.bytes_sent += <size_t>sent
                if self.interest & EPOLLOUT:  # the peer made room, so it is alive
                    self.heard = self._engine.now
            elif errno == EAGAIN:
                break
            elif errno != EINTR:
                self.lose_output(strerror(errno))
                return
        if not self.waiting():
            self.drop_output()
        self.after_flush()

    cdef void lose_output(self, str reason) noexcept:
        """Nothing more can be sent. What the peer sent before that is still read."""
        self._sendable = False
        self._output_lost = reason  # for a listener that blocks, and goes on sending
        self.drop_output()
        self.output_ended = True
        self._above_water = False
        self.update_interest()
        self._engine.post(partial(self._run_exclusively, partial(self._read_the_rest, reason)))

    def _read_the_rest(self, str reason):
        """Deliver what has arrived, then leave."""
        cdef int reads = MAX_LAST_READS
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
        if self.busy:  # and no longer in the engine's thread
            self._run_exclusively(partial(self._read_the_rest, reason))
        else:
            self.release(reason)

    cdef void after_flush(self) noexcept:
        """See what follows from how much is left: reading, writing, `drain`, FIN."""
        cdef size_t left = self.waiting()
        if self._above_water and left <= self.rules.high_water // 4:
            self._above_water = False
            if not self.drain_due:  # told when no listener is in the middle of sending
                self.drain_due = True
                self._engine.post(self._emit_drained)
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
                    with layer.lock:
                        layer.end_output()
            if self.input_ended:
                self.release("")
        elif self._tell_when_flushed:
            self._tell_when_flushed = False
            self._flushed()

    cdef void update_interest(self) noexcept:
        cdef uint32_t interest = EPOLLOUT if self.waiting() else 0
        if self.input_ended:
            pass
        elif not self.is_reading_paused():
            if self.input_pending == UNREAD:
                self.input_pending = READ_POSTED
                self._engine.post(self._read_rest)
            if not (self.is_push and self.input_pending):  # a transport reads no further than we do
                interest |= READING
        elif not (self.busy or self.waits_for_peer()):
            interest |= EPOLLRDHUP
        self.wait_for(interest)

    cdef bint is_reading_paused(self) noexcept:
        """Whether nothing is read: the application asked for it, or a client is to read first
        what waits for it. A server's client goes on reading, or two that only send would
        wait for each other for ever. What a peer had sent when it ended the connection is read
        in any case: it is bounded, and the end comes behind it."""
        return self.busy or self.waits_for_peer() or (self.paused and not self.hang_up)

    cdef bint waits_for_peer(self) noexcept:
        """Whether the peer is to receive first what waits for it."""
        return self._above_water and not self.masks and self.hang_up != PEER_GONE

    cdef void note_hang_up(self, uint32_t events) noexcept:
        """epoll reports an end, and goes on doing so until it was read or has ended us."""
        if events & (EPOLLHUP | EPOLLERR):
            self.hang_up = PEER_GONE
        elif not self.hang_up:
            self.hang_up = PEER_FINISHED

    def _peer_hung_up(self, uint32_t events):
        """The engine saw the end of a peer whose transport is paused."""
        if self.fd >= 0:
            self.note_hang_up(events)
            self.update_interest()

    cdef bint is_overrun(self) noexcept:
        """Whether a peer that has ended the connection left more than may wait for an
        application that has paused it."""
        try:
            return self.hang_up and self.paused and self._is_overrun()
        except BaseException:
            return True

    cdef bint wait_for(self, uint32_t interest) noexcept:
        """Have `ready` called at these events; returns whether that can be."""
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
        """Whether it is the application that does not read: it asked for that, or its
        listener blocks."""
        return bool(self.paused or self.busy)

    @property
    def _is_busy(self):
        """Whether a listener blocks, and another thread runs the engine meanwhile."""
        return bool(self.busy)

    @property
    def _descriptor(self):
        """The socket's descriptor, -1 if there is none."""
        return self.layer.fileno() if self.is_push and self.layer is not None else self.fd

    @property
    def _hidden_buffer(self):
        """The most bytes that may wait where nobody counts them: in an asyncio transport."""
        return LAYER_SEND_SIZE if self.is_push else 0

    def _pause_reading(self, bint paused):
        """Read nothing more, or go on. In the engine's thread only."""
        self.paused = paused
        if self.fd >= 0:
            self.update_interest()

    def _emit_drained(self):
        if self.busy or not self.drain_due:  # `listener_returned` has it told; or has had
            return
        self.drain_due = False
        if not self._above_water:  # or the listener went on sending, and there will be another
            self._run_exclusively(self._drained)

    def _run_exclusively(self, call):
        """Make a call that may run listeners, in the engine's thread: at once, or as soon as no
        listener of this connection runs in another thread, and none of others in this one."""
        cdef entry before
        if self.busy:
            self._postponed = (*self._postponed, call)
        elif self._engine.current is <void *>self:
            call()
        elif self._engine.current is not NULL:
            self._engine.post(partial(self._run_exclusively, call))
        else:
            before = self.begin_service()
            try:
                call()
            except BaseException as error:
                self.fail(error)
            self.end_service(before)

    cdef void drop_output(self) noexcept:
        self.large = None
        if self.out is not NULL:
            self._engine.give_buffer(self.out)
            self.out = NULL

    cdef void end_iteration(self) noexcept:
        self.corked = False
        self.flush_here()

    cdef void listener_blocked(self) noexcept:
        """The listener blocks: nothing is read until it returns, but what it has sent leaves."""
        self.busy += 1
        self.corked = False
        self.flush()
        if self.fd >= 0:
            self.update_interest()

    cdef void listener_returned(self) noexcept:
        if self.busy:  # or this is a forked child, in which nothing is served any more
            self.busy -= 1
        if self.busy:
            return
        if self.fd < 0:  # it was released meanwhile, but for what was in use
            decoder_free(&self.decoder)
            return
        self.update_interest()
        if self.drain_due:
            self._engine.post(self._emit_drained)
        postponed = self._postponed
        if postponed:
            self._postponed = ()
            for call in postponed:
                self._engine.post(partial(self._run_exclusively, call))

    # receiving

    cdef void ready(self, uint32_t events) noexcept:
        if self.busy:
            if events & EPOLLOUT:
                self.flush()
            if self.fd >= 0 and events & (EPOLLHUP | EPOLLERR):
                self._engine.unwatch(self)  # the peer is gone, which can wait
            return
        if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
            self.note_hang_up(events)
        if self.fd >= 0 and events & EPOLLOUT:
            self.flush()
        if self.fd >= 0 and events & ~<uint32_t>EPOLLOUT:
            if self.input_ended:
                self.release("the peer is gone")
            elif self.hang_up and self.is_overrun():
                self.release("the peer is gone, and what it left is too much")
            elif self.layer is None:
                self.receive()
            else:
                self.corked = True
                if self.input_pending != READ_POSTED:
                    self.read_layer()
                self.end_iteration()

    cdef void receive(self) noexcept:
        """One read: into the message under way if it is a large one, the rest into the
        buffer that all connections share."""
        cdef iovec parts[2]
        cdef decoder_event event
        cdef uint8_t *into = NULL
        cdef size_t direct = decoder_want(&self.decoder, LARGE, &into)
        cdef uint8_t *shared = self._engine.receive_buffer
        cdef ssize_t count
        cdef size_t size
        if direct:
            parts[0].iov_base = into
            parts[0].iov_len = direct
            parts[1].iov_base = shared
            parts[1].iov_len = RECEIVE_SIZE
            count = readv(self.fd, parts, 2)
        else:
            count = recv(self.fd, shared, RECEIVE_SIZE, 0)
        if count <= 0:
            if count == 0:
                self.input_ended = True
                self._input_over()
            elif errno != EAGAIN and errno != EINTR:
                self.release(strerror(errno))
            return
        self.heard = self._engine.now
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

    def _read_on(self):
        """Read from the layer, unless a posted call is about to."""
        if self.input_pending != READ_POSTED:
            self.serve_layer()

    def _read_rest(self):
        """Read what the last iteration has left in the layer."""
        self.input_pending = 0
        self.serve_layer()

    cdef void serve_layer(self) noexcept:
        """Read from the layer outside of `EpollEngine.serve`."""
        cdef entry before
        if self.fd < 0 or self.input_ended:
            return
        if self.busy:
            self.input_pending = UNREAD
            return
        if self.is_overrun():
            self.release("the peer is gone, and what it left is too much")
            return
        self._engine.now = monotonic_ms()  # a layer that is fed may come between turns
        before = self.begin_service()
        self.read_layer()
        self.end_service(before)

    cdef void read_layer(self) noexcept:
        try:
            self.receive_from_layer()
        except BaseException as error:
            self.input_lost(error)

    cdef entry begin_service(self) noexcept:
        """Listeners may be called, outside of `EpollEngine.serve`: until `end_service`, which is
        to be given the result, `take_over` knows that this thread is in here."""
        cdef entry before
        before.current = self._engine.current
        before.turns = self._engine.turns
        self._engine.current = <void *>self
        self.corked = True
        return before

    cdef void end_service(self, entry before) noexcept:
        self.end_iteration()
        if self._engine.turns != before.turns:
            self.listener_returned()
        else:
            self._engine.current = before.current
            self._engine.end_if_asked()

    cdef bint receive_from_layer(self) except -1:
        """Read as much as from a plain socket; the rest is left to the next iteration."""
        cdef ssize_t budget = RECEIVE_SIZE
        while self.fd >= 0:
            if self.is_reading_paused() or budget <= 0:
                self.input_pending = UNREAD
                return True
            layer = self.layer
            with layer.lock:
                data = layer.receive()
            if data is None:
                return True
            if not data:
                self.input_ended = True
                self._input_over()
                return True
            self.heard = self._engine.now
            budget -= len(data)
            self.traffic.bytes_received += <size_t>len(data)
            if not self._discard_input:
                buffer = bytearray(data)  # unmasked in place
                self.decode(<uint8_t *><char *>buffer, len(buffer))
        return True

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
        self.tell_all_delivered()

    cdef void feed_elsewhere(self, const uint8_t *data, size_t size) noexcept:
        try:
            self._feed((<const char *>data)[:size])
        except BaseException as error:
            self.input_lost(error)

    cdef void tell_all_delivered(self) noexcept:
        if self._after_messages is None:
            return
        try:
            self._after_messages()
        except BaseException as error:
            self.fail(error)

    cdef void deliver(self, decoder_kind kind, decoder_event *event) noexcept:
        """Hand one event on. Whatever goes wrong here ends this connection alone."""
        try:
            if kind == DECODER_MESSAGE:
                self.traffic.messages_received += 1
                self.call_listener(take_message(event))
            elif kind == DECODER_PING:
                self._ping_received(take_bytes(event))
            elif kind == DECODER_PONG:
                self._pong_received(take_bytes(event))
            elif kind == DECODER_CLOSE:
                self._close_received(event.code, take_reason(event))
            elif kind == DECODER_VIOLATION:
                self._fail_connection(event.code, event.reason.decode("ascii"))
            elif kind == DECODER_NO_MEMORY:
                raise MemoryError("there is no memory for a message")
        except BaseException as error:
            if kind == DECODER_MESSAGE or kind == DECODER_NO_MEMORY:
                self.input_lost(error)
            else:
                self.fail(error)

    cdef void call_listener(self, object message) noexcept:
        cdef object listener = self._message_listener
        try:
            if listener is None:
                self._queue_unclaimed(message)
            else:
                listener(message)
        except BaseException as error:
            self.fail(error)

    cdef void fail(self, error) noexcept:
        """A listener raised."""
        try:
            self._failed(error)
        except BaseException:
            self.give_up()

    cdef void input_lost(self, error) noexcept:
        """What has arrived could not be taken, for want of memory: nothing after it can be read."""
        try:
            self._input_lost(error)
        except BaseException:
            self.give_up()

    cdef void give_up(self) noexcept:
        """There is no memory even for an orderly end."""
        self._discard_input = True
        self._sendable = False
        if self.busy:
            self._engine.post(partial(self._drop, "out of memory"))
        else:
            self.release("out of memory")

    # ending

    def _finish(self):
        """Send what is left, then FIN; leave when the peer has done the same."""
        self.finishing = True
        self._discard_input = True
        self._sendable = False
        if self.fd >= 0:
            self.flush()

    def _drop(self, str reason):
        """Leave at once. In the engine's thread only."""
        self.release(reason)

    def _set_deadline(self, delay):
        """Have `_deadline_passed` called in `delay` seconds; None for never."""
        if self._engine is None or self.fd < 0:
            return
        if delay is None:
            wheel_cancel(&self.timer)
            return
        self._engine.now = monotonic_ms()
        wheel_set(&self._engine.timers, &self.timer, self._engine.now + <uint64_t>(delay * 1000))
        if not self._engine.serving:
            self._engine.arm()

    @property
    def _heard(self):
        """When the peer was last heard of, in the seconds of `time.monotonic`."""
        return self.heard / 1000.0

    cdef void expired(self) noexcept:
        self._deadline_passed()

    cdef void close_descriptor(self) noexcept:
        cdef int fd = self.fd
        layer = self.layer
        self.fd = -1
        if layer is None:
            close(fd)
            return
        with layer.lock:
            self.layer = None
            layer.close()

    cdef void forget_after_fork(self) noexcept:
        layer, self.layer = self.layer, None
        if layer is None:
            if self.fd >= 0:
                close(self.fd)
        elif not self.is_push:  # no lock: a thread of the parent may have held it
            layer.close()
        self.fd = -1
        self.interest = 0
        self.watched = False
        wheel_cancel(&self.timer)
        self._sendable = False
        self._discard_input = True
        if not self.busy:  # or it is still in use
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
        self._sendable = False
        self._discard_input = True
        if not self.busy:  # or it is still in use
            decoder_free(&self.decoder)
        self.context = None
        self.drop_output()
        self._engine.unlink(self)
        self._connection_lost(reason)
        self._released()
