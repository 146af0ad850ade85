# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The native RFC 6455 codec (`core/`) with Python objects for events and bytes for memory.

The engine calls it from C. `Decoder` and `write_frame` have the interface of the codec in
`protocol`, for the tests that compare the two.
"""

from os import strerror

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport errno
from libc.string cimport memcpy

from .linux cimport getrandom
from .lock cimport acquire_lock, free_lock, new_lock, release_lock

from ..protocol.assembly import Close, Message, Ping, Pong
from ..protocol.check import Violation


cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread() noexcept nogil
    void PyEval_RestoreThread(PyThreadState *state) noexcept nogil
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void *PyUnicode_DATA(object text)
    int _PyBytes_Resize(PyObject **string, Py_ssize_t size) except -1
    PyObject *bytes_or_null "PyBytes_FromStringAndSize"(const char *v, Py_ssize_t size) noexcept
    void Py_XINCREF(PyObject *o)
    void Py_XDECREF(PyObject *o)
    Py_ssize_t Py_REFCNT(PyObject *o)
    PyObject *PyList_GET_ITEM(list items, Py_ssize_t i)
    const Py_ssize_t PY_SSIZE_T_MAX


HAS_DEFLATE = bool(deflate_is_available())


cdef enum:
    MAX_RECYCLED = 8                # buffers of large messages that are kept: at most 16 MiB
    MIN_RECYCLED_BYTES = 131072
    MAX_RECYCLED_BYTES = 2097152


# --- memory of messages: the decoder's `reserve` and `release` ------------------------------

cdef int reserve_bytes(decoder_storage *storage, uint64_t capacity) noexcept:
    """Allocate or grow the bytes object that holds an incomplete message.

    The listener receives this object, without a copy.
    """
    cdef PyObject *owner = <PyObject *>storage.owner
    if capacity > <uint64_t>PY_SSIZE_T_MAX // 2:
        return 0
    if owner is NULL:
        if capacity >= MIN_RECYCLED_BYTES:
            owner = take_recycled(<Py_ssize_t>capacity)
        if owner is NULL:
            owner = bytes_or_null(NULL, <Py_ssize_t>capacity)
        if owner is NULL:
            PyErr_Clear()
            return 0
        capacity = <uint64_t>PyBytes_GET_SIZE(<object>owner)
    else:
        try:
            _PyBytes_Resize(&owner, <Py_ssize_t>capacity)
        except MemoryError:  # _PyBytes_Resize has freed the old object
            storage.owner = NULL
            storage.data = NULL
            storage.capacity = 0
            return 0
    storage.owner = owner
    storage.data = <uint8_t *>PyBytes_AS_STRING(<object>owner)
    storage.capacity = capacity
    return 1


cdef void release_bytes(decoder_storage *storage) noexcept:
    Py_XDECREF(<PyObject *>storage.owner)
    storage.owner = NULL


# Page faults in newly allocated memory cost more than receiving a large message into it. So the
# buffers of the last few messages are kept, and reused once there is no other reference to them.
cdef list recycled = []


cdef PyObject *take_recycled(Py_ssize_t min_size) noexcept:
    """Return a kept bytes object of more than `min_size` bytes without other references, or NULL.

    The caller owns the reference.
    """
    cdef PyObject *memory
    cdef Py_ssize_t i, size
    for i in range(len(recycled)):
        memory = PyList_GET_ITEM(recycled, i)
        size = PyBytes_GET_SIZE(<object>memory)
        if Py_REFCNT(memory) == 1 and min_size < size <= MAX_RECYCLED_BYTES:
            Py_XINCREF(memory)
            del recycled[i]
            try:
                _PyBytes_Resize(&memory, size - 1)  # also clears the cached hash
            except MemoryError:
                return NULL
            return memory
    return NULL


cdef void recycle(object memory) noexcept:
    """Keep the buffer of a large message for reuse."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(memory)
    if size < MIN_RECYCLED_BYTES or size > MAX_RECYCLED_BYTES:
        return
    if len(recycled) == MAX_RECYCLED:
        del recycled[0]
    recycled.append(memory)


cdef object take_text(decoder_event *event):
    """Return the str of a text, whose UTF-8 the decoder has checked."""
    cdef object text
    if event.is_ascii:
        text = PyUnicode_New(<Py_ssize_t>event.size, 127)
        if event.size:
            memcpy(PyUnicode_DATA(text), event.data, event.size)
        return text
    return PyUnicode_DecodeUTF8(<char *>event.data, <Py_ssize_t>event.size, NULL)


cdef object take_message(decoder_event *event):
    cdef PyObject *owner = <PyObject *>event.storage.owner
    if event.opcode == OPCODE_TEXT:
        if owner is NULL:
            return take_text(event)
        try:
            return take_text(event)
        finally:
            recycle(<object>owner)
            Py_XDECREF(owner)
    if event.key is not NULL:
        return take_masked(event)
    if owner is NULL:
        return take_bytes(event)
    _PyBytes_Resize(&owner, <Py_ssize_t>event.size)
    message = <object>owner
    Py_DECREF(message)  # the storage's reference; `message` has its own
    recycle(message)
    return message


cdef object take_masked(decoder_event *event):
    """Return the bytes of a message that the decoder has left masked."""
    message = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>event.size)
    mask_apply(<uint8_t *>PyBytes_AS_STRING(message), event.data, event.size, event.key, 0)
    return message


cdef object take_bytes(decoder_event *event):
    return PyBytes_FromStringAndSize(<char *>event.data, <Py_ssize_t>event.size)


cdef str take_reason(decoder_event *event):
    return PyUnicode_DecodeUTF8(<char *>event.data, <Py_ssize_t>event.size, NULL)


cdef void *gil_release() noexcept nogil:
    """Release the GIL; the result is for `gil_acquire`."""
    return <void *>PyEval_SaveThread()


cdef void gil_acquire(void *state) noexcept nogil:
    PyEval_RestoreThread(<PyThreadState *>state)


cdef class ConnectionLimits:
    def __cinit__(self, limits, agreed=None):
        self.rules.max_message_size = limits.max_message_size
        self.rules.max_fragments = min(limits.max_fragments, 0xFFFFFFFF)
        self.rules.max_empty_fragments = min(limits.max_empty_fragments, 0xFFFFFFFF)
        self.rules.reserve = reserve_bytes
        self.rules.release = release_bytes
        self.high_water = getattr(limits, "high_water", 0)
        self.max_buffered = getattr(limits, "max_buffered", 0)
        self.max_control_frames = min(getattr(limits, "max_control_frames", 0), 0xFFFFFFFF)
        self.compress_from = <size_t>PY_SSIZE_T_MAX
        self.rules.pool = &spare_streams
        self.rules.gil_release = gil_release
        self.rules.gil_acquire = gil_acquire
        if agreed is not None:
            self.rules.inflate_window_bits = agreed.inflate_window_bits
            self.rules.inflate_takeover = agreed.inflate_takeover
            self.compress_from = agreed.threshold
            self.deflate_window_bits = agreed.deflate_window_bits
            self.deflate_takeover = agreed.deflate_takeover
            self.level = agreed.level
            self.memory_level = agreed.memory_level


cdef class DeflateContext:
    def __cinit__(self):
        self.lock = new_lock()

    def __dealloc__(self):
        if self.deflater is not NULL:
            deflater_free(self.deflater)
        free_lock(self.lock)

    cdef void acquire(self) noexcept:
        acquire_lock(self.lock)

    cdef void release(self) noexcept:
        release_lock(self.lock)

    cdef void forget(self) noexcept:
        """Reset the context: the next message refers to no earlier message."""
        if self.deflater is not NULL:
            deflater_give(&spare_streams, self.deflater)
            self.deflater = NULL


# --- masking keys -------------------------------------------------------------------------

cdef uint8_t random_pool[1024]
cdef size_t random_left = 0


cdef bint masking_key(uint8_t *key) except -1:
    """Write four unpredictable bytes (RFC 6455 section 10.3) from the kernel to `key`."""
    global random_left
    if random_left < 4:
        if getrandom(random_pool, sizeof(random_pool), 0) != sizeof(random_pool):
            raise OSError(errno, strerror(errno))
        random_left = sizeof(random_pool)
    random_left -= 4
    memcpy(key, random_pool + random_left, 4)
    return True


def forget_random_bytes():
    """Discard buffered random bytes, so that a forked child does not reuse its parent's keys."""
    global random_left
    random_left = 0


# --- the codec as Python objects ------------------------------------------------------------

cdef class Decoder:
    """The native decoder with the interface of `protocol.message.Decoder`.

    `agreed` are the `EndpointParameters` of permessage-deflate, None without compression.
    """

    def __cinit__(self, limits, bint expect_masked, agreed=None):
        self.rules = ConnectionLimits(limits, agreed)
        self.decoder.rules = &self.rules.rules
        self.decoder.expect_masked = expect_masked

    def __dealloc__(self):
        decoder_free(&self.decoder)

    def feed(self, data):
        """Return the events that `data` completes, possibly none."""
        cdef decoder_event event
        cdef decoder_kind kind
        copy = bytearray(data)  # unmasked in place
        cdef uint8_t *cursor = <uint8_t *><char *>copy
        cdef uint8_t *end = cursor + len(copy)
        events = []
        while True:
            kind = decoder_next(&self.decoder, &cursor, end, &event)
            if kind == DECODER_NEED_DATA:
                return events
            if kind == DECODER_NO_MEMORY:
                raise MemoryError
            events.append(event_of(kind, &event))

    def receive_into(self, data):
        """Copy bytes of `data` directly into the incomplete message, as the engine receives them.

        Returns the number of bytes copied and the events. The number is 0 if `feed` must be used.
        """
        cdef decoder_event event
        cdef uint8_t *into = NULL
        cdef const uint8_t[::1] view = data
        cdef size_t size = decoder_want(&self.decoder, 1, &into)
        size = min(size, <size_t>view.shape[0])
        if not size:
            return 0, []
        memcpy(into, &view[0], size)
        kind = decoder_received(&self.decoder, size, &event)
        return size, [] if kind == DECODER_NEED_DATA else [event_of(kind, &event)]


cdef object event_of(decoder_kind kind, decoder_event *event):
    if kind == DECODER_MESSAGE:
        return Message(take_message(event))
    if kind == DECODER_PING:
        return Ping(take_bytes(event))
    if kind == DECODER_PONG:
        return Pong(take_bytes(event))
    if kind == DECODER_CLOSE:
        return Close(event.code, take_reason(event))
    return Violation(event.code, event.reason.decode("ascii"))


def write_frame(int opcode, bytes payload not None, bint fin=True, bytes key=None):
    """Return one frame, like `protocol.frame.write_frame`."""
    cdef uint8_t header[FRAME_MAX_HEADER]
    cdef const uint8_t *masking = NULL
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    if key is not None:
        masking = <const uint8_t *>PyBytes_AS_STRING(key)
    header_size = frame_header_write(
        header, opcode | (FRAME_FIN if fin else 0), <uint64_t>size, masking)
    body = bytearray(payload)
    if masking is not NULL:
        mask_apply(<uint8_t *><char *>body, <uint8_t *><char *>body, <size_t>size, masking, 0)
    return (<char *>header)[:header_size] + bytes(body)
