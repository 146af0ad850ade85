# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""Broadcasts: one message to many connections, framed once and written by native code."""

from functools import partial

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from .channel cimport SEND_DIRECT, Channel
from .codec cimport (
    FRAME_FIN,
    FRAME_MAX_HEADER,
    FRAME_RSV1,
    OPCODE_BINARY,
    OPCODE_TEXT,
    ConnectionLimits,
    frame_header_write,
)
from .engine cimport EpollEngine

from ..protocol.deflate import MIN_WINDOW_BITS, PLAIN


def fan_out(tuple members, message, excluded=()):
    """Send a `PreparedMessage` to each member that is open, not backlogged, and uses the native
    codec.

    Returns the number of these members, and a list of the other members, without those in
    `excluded`. Thread-safe; never blocks.
    """
    cdef Channel channel
    cdef ConnectionLimits known = None
    cdef bytes frame = None
    cdef EpollEngine engine = None
    cdef size_t count = 0
    cdef bint has_excluded = bool(excluded)
    cdef list others = []
    for member in members:
        if has_excluded and member in excluded:
            continue
        channel = <Channel?>member
        if channel._send_state == SEND_DIRECT and not channel.masks():
            if channel.rules is not known:
                frame = frame_for(channel, message)
                known = channel.rules
            if channel._engine is not engine:
                wake(engine)
                engine = channel._engine
            try:
                if channel.write_prepared(frame):
                    count += 1
                    continue
            except MemoryError as error:  # ends this member, not the broadcast
                channel._in_engine(partial(channel._output_failed, error))
                continue
        others.append(member)
    wake(engine)
    return count, others


cdef void wake(EpollEngine engine) noexcept:
    """Wake the engine to send, unless this is its own thread, which sends at the end of its
    iteration."""
    if engine is not None and engine.owner != PyThread_get_thread_ident():
        engine.wake()


cdef bytes frame_for(Channel channel, message):
    """Return the frame for connections with the channel's rules and an empty context."""
    cdef ConnectionLimits rules = channel.rules
    cdef dict frames = message.frames
    cdef bint compressed = rules.deflate_window_bits and message.size >= rules.compress_from
    cdef tuple wire_format = PLAIN
    if compressed:
        bits = max(rules.deflate_window_bits, MIN_WINDOW_BITS)
        wire_format = (bits, rules.level, rules.memory_level)
    frame = frames.get(wire_format)
    if frame is None:
        frame = frames[wire_format] = make_frame(channel, message.data, compressed)
    return frame


cdef bytes make_frame(Channel channel, object data, bint compressed):
    cdef uint8_t first = FRAME_FIN | (OPCODE_TEXT if isinstance(data, str) else OPCODE_BINARY)
    cdef bytes payload = data.encode() if isinstance(data, str) else data
    cdef bytes deflated = deflate(channel, payload) if compressed and payload else None
    if deflated is None:
        return frame_of(first, payload)
    return frame_of(first | FRAME_RSV1, deflated)


cdef bytes frame_of(uint8_t first, bytes payload):
    cdef uint8_t header[FRAME_MAX_HEADER]
    cdef size_t size = <size_t>PyBytes_GET_SIZE(payload)
    cdef size_t header_size = frame_header_write(header, first, size, NULL)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(header_size + size))
    cdef char *place = PyBytes_AS_STRING(frame)
    memcpy(place, header, header_size)
    memcpy(place + header_size, PyBytes_AS_STRING(payload), size)
    return frame


cdef bytes deflate(Channel channel, bytes payload):
    """Return `payload` compressed with an empty context, None if it does not become smaller."""
    cdef size_t size = <size_t>PyBytes_GET_SIZE(payload)
    cdef bytes deflated = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size + 4)
    cdef size_t deflated_size = channel.deflate(
        None, <const uint8_t *>PyBytes_AS_STRING(payload), size,
        <uint8_t *>PyBytes_AS_STRING(deflated))
    return deflated[:deflated_size] if deflated_size else None
