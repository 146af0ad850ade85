# cython: language_level=3
"""Types for inbox.py, which make it a part of the native engine."""

cimport cython

cdef Py_ssize_t MESSAGE_OVERHEAD
cdef Py_ssize_t MAX_TAKEN

cdef class Backlog:
    cdef readonly list messages
    cdef public object listener
    cdef readonly bint is_full
    cdef object _source
    cdef Py_ssize_t _room

    cpdef put(self, message)


cdef class _Inbox:
    cdef object _source
    cdef long long _high_water
    cdef long long _came
    cdef long long _taken
    cdef readonly bint is_full
    cdef public bint has_moved

    @cython.locals(size=Py_ssize_t)
    cdef _count_arrival(self, message)
    cdef _pause_if_full(self)
    @cython.locals(size=Py_ssize_t)
    cdef _count_taken(self, message)
    cdef _go_on_if_taken(self)


cdef class ThreadInbox(_Inbox):
    cdef object _queue
    cdef object _end
    cdef Py_ssize_t _waiting


cdef class LoopInbox(_Inbox):
    cdef object _loop
    cdef readonly bint same_loop
    cdef tuple _normal_close_codes
    cdef object _first
    cdef list _others
    cdef Py_ssize_t _next_other
    cdef object _end
    cdef object _wakeup
    cdef object _context
    cdef object _cancellation
    cdef bint _is_cancelled
    cdef public bint _asyncio_future_blocking

    cdef accept(self, message)
    cpdef end_read(self)
    cpdef wake(self)
    cpdef take(self)
    cdef _begin_to_wait(self)
    @cython.locals(others=list)
    cdef _remove_first(self)


cdef class FramelessCoroutine:
    cdef object _value

    cpdef bint resume(self) except -1


cdef class NextMessage(FramelessCoroutine):
    cdef LoopInbox _inbox

    @cython.locals(inbox=LoopInbox)
    cpdef bint resume(self) except -1


@cython.locals(awaitable=NextMessage)
cdef NextMessage next_message(LoopInbox inbox)
