# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The engine for Linux: epoll and sockets, with the native codec.

Knows descriptors and bytes, and nothing of HTTP. What happens to a connection beyond
sending and receiving (pings answered, the closing handshake, events) is in the methods of
`websocket_handler.websocket.WebSocket`, which is a `Channel`; the names of those that are
called from here begin with an underscore and are listed in `native.pyi`.

The way of bytes: `EpollEngine.turn` waits; `Channel.receive` reads into the buffer that
all share, or straight into a large message; `decode` and `deliver` call the listener;
what it sends collects in `outgoing` and leaves in one `flush` per read.

Threads: everything here runs with the GIL held except the wait itself, so a `send` from
any thread is whole. A channel leaves (`release`) on the engine's thread only.
"""

import logging
from collections import deque
from functools import partial
from os import strerror
from socket import AF_UNIX, IPPROTO_TCP, TCP_NODELAY

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, itimerspec, timespec
from posix.unistd cimport close, read, write

from .codec cimport (
    DECODER_CLOSE,
    DECODER_MESSAGE,
    DECODER_NO_MEMORY,
    DECODER_PING,
    DECODER_PONG,
    DECODER_STARVED,
    DECODER_VIOLATION,
    FRAME_FIN,
    FRAME_MAX_HEADER,
    OPCODE_BINARY,
    OPCODE_TEXT,
    Rules,
    decoder_event,
    decoder_free,
    decoder_kind,
    decoder_next,
    decoder_received,
    decoder_want,
    frame_header_write,
    mask_apply,
    masking_key,
    take_bytes,
    take_message,
    take_reason,
)
from .linux cimport *


cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL


cdef enum:
    EVENTS_PER_TURN = 256
    RECEIVE_SIZE = 81920      # the receive buffer: a message of 64 KiB fits with its header
    LARGE = 16384             # payloads from here on are not copied if that can be helped
    CORKED_AT_MOST = 65536
    SPARE_BUFFERS = 8
    FIRST_SEND_BUFFER = 4096
    READING = EPOLLIN | EPOLLRDHUP


logger = logging.getLogger("websocket_handler")


cdef uint64_t monotonic_ms() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <uint64_t>time.tv_sec * 1000 + <uint64_t>time.tv_nsec // 1000000


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


# --- the engine ---------------------------------------------------------------------------

cdef class Pollable:
    def __cinit__(self, *args, **kwargs):
        self.fd = -1

    cdef void ready(self, uint32_t events) noexcept:
        pass


cdef class TimerDescriptor(Pollable):
    """The timerfd: goes off when the earliest time-out of all channels may be due."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef uint64_t count
        read(self.fd, &count, sizeof(count))  # the timers are looked at in `end_turn`


cdef class WakeupDescriptor(Pollable):
    """The eventfd: another thread has posted something."""

    cdef void ready(self, uint32_t events) noexcept:
        cdef uint64_t count
        read(self.fd, &count, sizeof(count))  # the calls are made in `end_turn`


cdef class EpollEngine:
    """Serves every attached channel from one thread.

    `fileno()` is readable when something is to be done and `poll()` does it: that is all a
    foreign event loop needs. Raises `OSError` if the kernel has no descriptors left.
    """

    def __cinit__(self, *args, **kwargs):
        self.epoll_fd = -1
        self.timer = TimerDescriptor()
        self.wakeup = WakeupDescriptor()
        self.posted = deque()
        self.corked = []
        self.retired = []
        self.rules_by_settings = {}
        self.sinks = set()
        self.receive_buffer = <uint8_t *>malloc(RECEIVE_SIZE)
        if self.receive_buffer is NULL:
            raise MemoryError
        self.now = monotonic_ms()
        self.armed = WHEEL_NEVER
        wheel_start(&self.timers, self.now)
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        self.wakeup.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.epoll_fd < 0 or not (
            self.watch(self.timer, EPOLLIN) and self.watch(self.wakeup, EPOLLIN)
        ):
            raise OSError(errno, strerror(errno))

    def __dealloc__(self):
        self.close_descriptors()
        free(self.receive_buffer)
        while self.spare_count:
            self.spare_count -= 1
            free(self.spare[self.spare_count])

    cdef void close_descriptors(self) noexcept:
        for pollable in (self.timer, self.wakeup):
            if (<Pollable>pollable).fd >= 0:
                close((<Pollable>pollable).fd)
                (<Pollable>pollable).fd = -1
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
            self.epoll_fd = -1

    def fileno(self):
        """The descriptor that is readable when `poll` has something to do."""
        return self.epoll_fd

    def poll(self, timeout=0):
        """Serve what is ready. Waits up to `timeout` seconds for it, None for ever."""
        if self.epoll_fd < 0:
            raise RuntimeError("the engine is closed")
        if self.serving:
            raise RuntimeError("the engine is being polled already")
        self.turn(-1 if timeout is None else <int>(timeout * 1000))
        if self.interruption is not None:
            interruption, self.interruption = self.interruption, None
            raise interruption

    def interrupt(self, error):
        """Have `poll` raise what is meant for the program and not for us: Ctrl-C, exit."""
        self.interruption = error

    def is_own_thread(self):
        """Whether the caller runs in the thread that turns the engine."""
        return self.owner == PyThread_get_thread_ident()

    def adopt_thread(self):
        """Declare the calling thread the one that turns the engine."""
        self.owner = PyThread_get_thread_ident()

    def post(self, call):
        """Have `call()` made in the engine's thread, soon. Safe from any thread."""
        self.posted.append(call)
        self.wake()

    def attach(self, Channel channel not None, sock, early=b""):
        """Give a connected socket to the engine, with bytes already read from it.

        Takes the socket away from `sock`, in any thread; the rest happens in the engine's.
        """
        if self.epoll_fd < 0:
            raise RuntimeError("the engine is closed")
        sock.setblocking(False)
        if sock.family != AF_UNIX:
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, True)  # what is sent together leaves together
        channel._engine = self
        fd = sock.detach()
        self.post(lambda: self.take_in(channel, fd, early))

    def discard(self, sock):
        """Take a socket over to throw away what arrives on it, until its end."""
        sock.setblocking(False)
        cdef Sink sink = Sink()
        sink.engine = self
        sink.fd = sock.detach()
        if self.watch(sink, EPOLLIN):
            self.sinks.add(sink)
        else:
            close(sink.fd)

    def channels(self):
        """Every attached channel."""
        cdef list found = []
        cdef void *item = self.first
        while item is not NULL:
            found.append(<Channel>item)
            item = (<Channel>item).next
        return found

    def close(self):
        """Drop every connection as it is and give back the descriptors."""
        if self.epoll_fd < 0:
            return
        self.run_posted()  # a socket may be waiting to be taken in
        for channel in self.channels():
            (<Channel>channel).release("the engine was closed")
        self.retired.clear()
        for sink in self.sinks:
            close((<Sink>sink).fd)
        self.sinks.clear()
        self.close_descriptors()

    def abandon(self):
        """In a forked child: let go of what belongs to the parent, without a word to anyone."""
        cdef void *item = self.first
        while item is not NULL:
            close((<Channel>item).fd)
            (<Channel>item).fd = -1
            item = (<Channel>item).next
        for sink in self.sinks:
            close((<Sink>sink).fd)
        self.sinks.clear()
        self.posted.clear()
        self.close_descriptors()

    def take_in(self, Channel channel, int fd, bytes early):
        channel.fd = fd
        channel.heard = self.now
        if not self.watch(channel, READING):
            reason = strerror(errno)
            close(fd)
            channel.fd = -1
            channel._connection_lost(reason)
            return
        self.link(channel)
        channel.corked = True
        channel._opened()
        if early and channel.fd >= 0:
            buffer = bytearray(early)  # unmasked in place
            channel.decode(<uint8_t *><char *>buffer, len(buffer))
        channel.corked = False
        if channel.fd >= 0:
            channel.flush()

    cdef int turn(self, int timeout_ms) except -1:
        cdef epoll_event events[EVENTS_PER_TURN]
        cdef int count, i
        with nogil:
            count = epoll_wait(self.epoll_fd, events, EVENTS_PER_TURN, timeout_ms)
        self.owner = PyThread_get_thread_ident()
        self.now = monotonic_ms()
        self.serving = True
        for i in range(count):
            (<Pollable>events[i].data.ptr).ready(events[i].events)
        self.end_turn()
        return 0

    cdef void end_turn(self) noexcept:
        self.run_posted()
        self.expire_timers()
        for channel in self.corked:
            (<Channel>channel).corked = False
            (<Channel>channel).flush()
        self.corked.clear()
        self.arm()
        self.serving = False
        self.retired.clear()

    cdef void run_posted(self) noexcept:
        for _ in range(len(self.posted)):
            call = self.posted.popleft()
            try:
                call()
            except BaseException:
                logger.exception("a call posted to the engine failed: %r", call)

    cpdef void wake(self) noexcept:
        """Let a waiting `poll` return. Safe from any thread."""
        cdef uint64_t one = 1
        write(self.wakeup.fd, &one, sizeof(one))

    cdef void expire_timers(self) noexcept:
        cdef wheel_timer *timer = wheel_expire(&self.timers, self.now)
        while timer is not NULL:
            (<Channel>timer.owner)._deadline_passed()
            timer = wheel_expire(&self.timers, self.now)

    cdef void arm(self) noexcept:
        """Set the timerfd to the earliest time-out, if that has changed."""
        cdef itimerspec when
        cdef uint64_t next = wheel_next(&self.timers)
        if next == self.armed:
            return
        self.armed = next
        memset(&when, 0, sizeof(when))  # all zero disarms it
        if next != WHEEL_NEVER:
            when.it_value.tv_sec = next // 1000
            when.it_value.tv_nsec = next % 1000 * 1000000
        timerfd_settime(self.timer.fd, TFD_TIMER_ABSTIME, &when, NULL)

    cdef bint watch(self, Pollable pollable, uint32_t interest) noexcept:
        """Wait for other events of `pollable`; puts it into the epoll set the first time."""
        cdef epoll_event event
        cdef int operation = EPOLL_CTL_MOD if pollable.watched else EPOLL_CTL_ADD
        if pollable.watched and interest == pollable.interest:
            return True
        event.events = interest
        event.data.ptr = <void *>pollable
        if epoll_ctl(self.epoll_fd, operation, pollable.fd, &event) != 0:
            return False
        pollable.interest = interest
        pollable.watched = True
        return True

    cdef void unwatch(self, Pollable pollable) noexcept:
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, pollable.fd, NULL)
        pollable.interest = 0
        pollable.watched = False

    cdef void link(self, Channel channel) noexcept:
        """Hold a reference to the channel for as long as it is attached."""
        Py_INCREF(channel)
        channel.previous = NULL
        channel.next = self.first
        if self.first is not NULL:
            (<Channel>self.first).previous = <void *>channel
        self.first = <void *>channel
        self.channel_count += 1

    cdef void unlink(self, Channel channel) noexcept:
        """Let it go; what epoll may already have named in this turn lives until its end."""
        if channel.previous is NULL:
            self.first = channel.next
        else:
            (<Channel>channel.previous).next = channel.next
        if channel.next is not NULL:
            (<Channel>channel.next).previous = channel.previous
        channel.next = channel.previous = NULL
        self.channel_count -= 1
        self.retired.append(channel)
        Py_DECREF(channel)

    cdef uint8_t *take_buffer(self) noexcept:
        if self.spare_count:
            self.spare_count -= 1
            return self.spare[self.spare_count]
        return <uint8_t *>malloc(FIRST_SEND_BUFFER)

    cdef void give_buffer(self, uint8_t *buffer, size_t capacity) noexcept:
        if capacity == FIRST_SEND_BUFFER and self.spare_count < SPARE_BUFFERS:
            self.spare[self.spare_count] = buffer
            self.spare_count += 1
        else:
            free(buffer)


cdef class Sink(Pollable):
    cdef void ready(self, uint32_t events) noexcept:
        cdef ssize_t count = recv(self.fd, self.engine.receive_buffer, RECEIVE_SIZE, 0)
        if count > 0 or (count < 0 and (errno == EAGAIN or errno == EINTR)):
            return
        self.engine.unwatch(self)
        close(self.fd)
        self.fd = -1
        self.engine.retired.append(self)
        self.engine.sinks.discard(self)


# --- a connection -------------------------------------------------------------------------

cdef class Channel(Pollable):
    """One connection's bytes: what `WebSocket` is made of.

    Before the engine has the socket, what is sent collects; nothing is lost.
    """

    def __cinit__(self, *args, **kwargs):
        self.timer.owner = <void *>self

    def __dealloc__(self):
        decoder_free(&self.decoder)
        free(self.out.data)

    def _bind(self, engine, settings, version, client=False):
        """Choose limits, codec and role, before the first byte."""
        cdef EpollEngine home = engine
        rules = home.rules_by_settings.get(settings)
        if rules is None:
            rules = home.rules_by_settings[settings] = Rules(settings)
        self._engine = home
        self.rules = rules
        self.decoder.rules = &self.rules.rules
        self.decoder.expect_masked = not client
        self.masks = client
        self._sendable = True

    # sending

    def send(self, message):
        """Send a message: text for `str`, binary for bytes-like, fragments for an iterable.

        The frame leaves at once, or together with what else the same read or listener
        gives rise to; what the peer does not take is kept (`buffered_amount`). An iterable
        of `str` or of bytes-like is sent as one message, a fragment for each item as it
        comes (RFC 6455 section 5.4); other messages wait until it is complete. May be
        called from any thread. Raises `ConnectionClosed` if the connection is not open,
        `TypeError` for anything else, `UnicodeEncodeError` for a lone surrogate.
        """
        cdef Py_ssize_t size
        cdef const char *text
        if not self._sendable or self.waiting() > self.rules.max_buffered:
            self._send_otherwise(message)
        elif isinstance(message, str):
            text = PyUnicode_AsUTF8AndSize(message, &size)
            self.write_frame(
                FRAME_FIN | OPCODE_TEXT, <const uint8_t *>text, <size_t>size, message)
        elif isinstance(message, bytes):
            self.write_frame(
                FRAME_FIN | OPCODE_BINARY,
                <const uint8_t *>PyBytes_AS_STRING(message),
                <size_t>PyBytes_GET_SIZE(message), message)
        else:
            self._send_otherwise(message)

    @property
    def buffered_amount(self):
        """The bytes accepted by `send` that the operating system has not taken yet."""
        return self.waiting()

    @property
    def _blocked(self):
        """Whether the peer is behind: the operating system would not take more."""
        return bool(self.interest & EPOLLOUT)

    def _write(self, bytes data not None):
        """Send bytes as they are: the response to the handshake."""
        self.append(<const uint8_t *>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        self.flush_or_cork()

    def _write_frame(self, int opcode, bytes payload not None, bint fin=True):
        """Send one frame of any kind, in any state."""
        self.write_frame(
            opcode | (FRAME_FIN if fin else 0),
            <const uint8_t *>PyBytes_AS_STRING(payload),
            <size_t>PyBytes_GET_SIZE(payload), payload)

    cdef size_t waiting(self) noexcept:
        cdef size_t waiting = self.out.end - self.out.start
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
        if self.masks:
            masking_key(key)
            header_size = frame_header_write(header, first, size, key)
            place = self.grow(header_size + size)
            memcpy(place, header, header_size)
            mask_apply(place + header_size, data, size, key, 0)
            self.out.end += header_size + size
        else:
            header_size = frame_header_write(header, first, size, NULL)
            if (size >= LARGE and self.large is None
                    and self.fd >= 0 and not self.interest & EPOLLOUT):
                self.send_through(header, header_size, data, size, owner)
            else:
                place = self.grow(header_size + size)
                memcpy(place, header, header_size)
                memcpy(place + header_size, data, size)
                self.out.end += header_size + size
        self.flush_or_cork()
        return True

    cdef bint send_through(
        self, const uint8_t *header, size_t header_size,
        const uint8_t *data, size_t size, object owner
    ) except -1:
        """Send a large frame from where it lies, without a copy; what the peer does not
        take now is sent from there later."""
        cdef iovec parts[3]
        cdef msghdr message
        cdef ssize_t sent
        cdef size_t ahead = self.out.end - self.out.start
        parts[0].iov_base = self.out.data + self.out.start
        parts[0].iov_len = ahead
        parts[1].iov_base = <void *>header
        parts[1].iov_len = header_size
        parts[2].iov_base = <void *>data
        parts[2].iov_len = size
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = 3
        sent = max(sendmsg(self.fd, &message, MSG_NOSIGNAL), 0)  # `flush` will meet an error
        if <size_t>sent >= ahead + header_size:
            self.out.start = self.out.end = 0
            if <size_t>sent < ahead + header_size + size:
                self.large = owner
                self.large_sent = <size_t>sent - ahead - header_size
            return True
        if <size_t>sent < ahead:
            self.out.start += <size_t>sent
            sent = 0
        else:
            self.out.start = self.out.end = 0
            sent -= ahead
        self.append(header + sent, header_size - <size_t>sent)
        return self.append(data, size)

    cdef ssize_t send_waiting(self) noexcept:
        """One call to send all that waits; returns what the system call did."""
        cdef outgoing *out = &self.out
        cdef iovec parts[2]
        cdef msghdr message
        cdef size_t rest
        cdef ssize_t sent
        if self.large is None:
            sent = send(self.fd, out.data + out.start, out.end - out.start, MSG_NOSIGNAL)
            out.start += <size_t>max(sent, 0)
            return sent
        parts[0] = payload_of(self.large)
        rest = parts[0].iov_len - self.large_sent
        parts[0].iov_base = <uint8_t *>parts[0].iov_base + self.large_sent
        parts[0].iov_len = rest
        parts[1].iov_base = out.data + out.start
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

    cdef bint append(self, const uint8_t *data, size_t size) except -1:
        memcpy(self.grow(size), data, size)
        self.out.end += size
        return True

    cdef uint8_t *grow(self, size_t size) except NULL:
        """The place for `size` more bytes at the end of what is to be sent."""
        cdef outgoing *out = &self.out
        cdef size_t used = out.end - out.start
        cdef size_t capacity
        cdef uint8_t *data
        if out.data is NULL and size <= FIRST_SEND_BUFFER and self._engine is not None:
            out.data = self._engine.take_buffer()
            out.capacity = FIRST_SEND_BUFFER if out.data is not NULL else 0
        if size > out.capacity - out.end and out.start:
            memmove(out.data, out.data + out.start, used)
            out.start = 0
            out.end = used
        if size > out.capacity - out.end or out.data is NULL:
            capacity = max(used + size, 2 * out.capacity, <size_t>FIRST_SEND_BUFFER)
            data = <uint8_t *>realloc(out.data, capacity)
            if data is NULL:
                raise MemoryError
            out.data = data
            out.capacity = capacity
        return out.data + out.end

    cdef void flush_or_cork(self) noexcept:
        """Send now, unless this turn of the engine has more to come."""
        if self.fd < 0 or self.interest & EPOLLOUT:
            return  # not attached yet, or gone; or the engine goes on when the peer does
        if self._engine.serving and self._engine.owner == PyThread_get_thread_ident():
            if not self.corked:
                self.corked = True
                self._engine.corked.append(self)
            if self.waiting() < CORKED_AT_MOST:
                return
        self.flush()

    cdef void flush(self) noexcept:
        if self.fd < 0:
            return
        while self.waiting():
            if self.send_waiting() >= 0:
                if self.interest & EPOLLOUT:  # the peer made room, so it is alive
                    self.heard = self._engine.now
            elif errno == EAGAIN:
                break
            elif errno != EINTR:
                reason = strerror(errno)
                self.drop_output()
                self._engine.post(partial(self._drop, reason))
                return
        if not self.waiting():
            self.drop_output()
        self.after_flush()

    cdef void after_flush(self) noexcept:
        """See what follows from how much is left: reading, writing, `drain`, FIN."""
        cdef size_t left = self.waiting()
        cdef bint drained = False
        if left > self.rules.high_water:
            self.above_water = True
        elif self.above_water and left <= self.rules.high_water // 4:
            self.above_water = False
            drained = True
        self._engine.watch(
            self, (0 if self.above_water or self.input_ended else READING) | (EPOLLOUT if left else 0))
        if self.finishing and not left:
            if not self.output_ended:
                self.output_ended = True
                shutdown(self.fd, SHUT_WR)
            if self.input_ended:
                self.release("")
                return
        if drained:
            self._drained()
        elif self._tell_when_flushed and not left:
            self._tell_when_flushed = False
            self._flushed()

    cdef void drop_output(self) noexcept:
        self.large = None
        if self.out.data is not NULL:
            self._engine.give_buffer(self.out.data, self.out.capacity)
            memset(&self.out, 0, sizeof(self.out))

    # receiving

    cdef void ready(self, uint32_t events) noexcept:
        if self.fd >= 0 and events & EPOLLOUT:
            self.flush()
        if self.fd >= 0 and events & ~<uint32_t>EPOLLOUT:
            if self.input_ended:
                self.release("the peer is gone")
            else:
                self.receive()

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
        if self._deaf:
            return
        size = <size_t>count
        self.corked = True
        if direct:
            direct = min(direct, size)
            size -= direct
            self.deliver(decoder_received(&self.decoder, direct, &event), &event)
        if size and self.fd >= 0:
            self.decode(shared, size)
        self.corked = False
        self.flush()

    cdef void decode(self, uint8_t *data, size_t size) noexcept:
        cdef uint8_t *cursor = data
        cdef uint8_t *end = data + size
        cdef decoder_event event
        cdef decoder_kind kind
        while self.fd >= 0 and not self._deaf:
            kind = decoder_next(&self.decoder, &cursor, end, &event)
            if kind == DECODER_STARVED:
                return
            self.deliver(kind, &event)

    cdef void deliver(self, decoder_kind kind, decoder_event *event) noexcept:
        """Hand one event on. Whatever goes wrong here ends this connection alone."""
        try:
            if kind == DECODER_MESSAGE:
                self.call_listener(take_message(event))
            elif kind == DECODER_PING:
                self._ping_received(take_bytes(event))
            elif kind == DECODER_PONG:
                self._pong_received(take_bytes(event))
            elif kind == DECODER_CLOSE:
                self._close_received(event.code, take_reason(event))
            elif kind == DECODER_VIOLATION:
                self._violated(event.code, event.reason.decode("ascii"))
            elif kind == DECODER_NO_MEMORY:
                raise MemoryError
        except BaseException as error:
            self._failed(error)

    cdef void call_listener(self, object message) noexcept:
        cdef object listener = self._message_listener
        if listener is None:
            return
        try:
            listener(message)
        except BaseException as error:
            self._failed(error)

    # ending

    def _finish(self):
        """Send what is left, then FIN; leave when the peer has done the same."""
        self.finishing = True
        self._deaf = True
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

    cdef void release(self, str reason) noexcept:
        if self.fd < 0:
            return
        wheel_cancel(&self.timer)
        self._engine.unwatch(self)
        close(self.fd)
        self.fd = -1
        self._sendable = False
        self._deaf = True
        decoder_free(&self.decoder)
        self.drop_output()
        self._engine.unlink(self)
        self._connection_lost(reason)
