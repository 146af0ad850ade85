# cython: language_level=3, boundscheck=False, wraparound=False
# cython: initializedcheck=False, embedsignature=True
"""Takes an open connection out of the native engine, to move it to another process.

Everything is called in the engine's thread. `pure_moving.py` has the same functions for the engine
in pure Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from .channel cimport Channel
from .codec cimport (
    DEFLATE_MAX_WINDOW,
    decoder_find_position,
    decoder_position,
    inflater_set_window,
    inflater_take,
    inflater_window,
    spare_streams,
)
from .engine cimport wheel_cancel
from .linux cimport EPOLLIN, EPOLLRDHUP

from ..protocol.position import Position


def suspend(Channel channel not None):
    """Stop reading and writing. Returns the descriptor, which stays open; None if the connection
    cannot be suspended: TLS and transports in Python have state of their own, and after the end of
    one direction there is nothing to move.

    A suspended channel is like one before its socket is attached: it collects the data to send.
    """
    cdef int fd = channel.fd
    if fd < 0 or channel.layer is not None or channel.busy or channel.hang_up:
        return None
    if channel.input_ended or channel.finishing or channel.output_ended:
        return None
    wheel_cancel(&channel.timer)
    channel._engine.unwatch(channel)
    channel.fd = -1
    return fd


def resume(Channel channel not None, int fd):
    """Undo `suspend`, which has returned `fd`."""
    channel.fd = fd
    if channel._engine.watch(channel, EPOLLIN | EPOLLRDHUP):
        channel._set_usual_deadline()
        channel.flush()
    else:
        channel.release("the connection cannot be watched")


def release(Channel channel not None, int fd):
    """Close this process's copy of the socket of a suspended channel."""
    channel.fd = fd
    channel.release("moved")


def unsent(Channel channel not None):
    """Return the bytes in the send buffer."""
    cdef bytes rest = b""
    cdef object large = channel.large
    if large is not None:
        payload = large.encode() if isinstance(large, str) else large
        rest = payload[channel.large_sent:]
    if channel.out is not NULL:
        rest += (<char *>(<uint8_t *>(channel.out + 1) + channel.out.start))[:channel.copied()]
    return rest


def position(Channel channel not None):
    """Return the `Position` of the native decoder."""
    cdef decoder_position found = decoder_find_position(&channel.decoder)
    cdef int i
    key = bytes([channel.decoder.key[(channel.decoder.key_position + i) & 3] for i in range(4)])
    return Position(
        opcode=found.opcode,
        payload=PyBytes_FromStringAndSize(<char *>found.payload, <Py_ssize_t>found.size),
        fragments=found.fragments,
        empty=found.empty,
        remaining=channel.decoder.remaining if channel.decoder.in_payload else None,
        fin=bool(channel.decoder.fin),
        key=key,
        unread=PyBytes_FromStringAndSize(<char *>found.unread, <Py_ssize_t>found.unread_size),
        is_compressed=bool(found.compressed),
    )


def window(Channel channel not None):
    """Return the window of the decompressor, b"" if there is none."""
    cdef uint8_t out[DEFLATE_MAX_WINDOW]
    cdef size_t size
    if channel.decoder.inflater is NULL:
        return b""
    size = inflater_window(channel.decoder.inflater, out)
    return PyBytes_FromStringAndSize(<char *>out, <Py_ssize_t>size)


def set_window(Channel channel not None, bytes window not None):
    """Set the window of the decompressor, before the first byte is received. Raises `ValueError` if
    it is not valid."""
    channel.decoder.inflater = inflater_take(
        &spare_streams, channel.rules.rules.inflate_window_bits)
    if channel.decoder.inflater is NULL:
        raise MemoryError
    if not inflater_set_window(
            channel.decoder.inflater, <const uint8_t *>PyBytes_AS_STRING(window),
            <size_t>PyBytes_GET_SIZE(window)):
        raise ValueError("the window of the decompressor is not valid")
