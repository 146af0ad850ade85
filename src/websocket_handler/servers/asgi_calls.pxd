# cython: language_level=3
"""Types for asgi_calls.py, which make it a part of the native engine."""

cimport cython

from ..connection.inbox cimport FramelessCoroutine, LoopInbox


cdef class ASGICalls:
    cdef public object _websocket
    cdef object _send_message
    cdef public LoopInbox _messages
    cdef public bint _is_receiving
    cdef public object _may_receive

    cdef _note_received(self)


cdef class Call(FramelessCoroutine):
    cdef ASGICalls _calls
    cdef object _rest

    cdef bint _run_rest(self) except -1
    cdef _end(self)


cdef class Receiving(Call):
    cdef LoopInbox _inbox

    @cython.locals(calls=ASGICalls, inbox=LoopInbox)
    cpdef bint resume(self) except -1
    @cython.locals(calls=ASGICalls)
    cdef _end(self)
    cdef bint _take(self, ASGICalls calls, LoopInbox inbox) except -1


cdef class Sending(Call):
    cdef dict _message

    @cython.locals(calls=ASGICalls, message=dict)
    cpdef bint resume(self) except -1


@cython.locals(awaitable=Receiving)
cdef Receiving receiving(ASGICalls calls)
@cython.locals(awaitable=Sending)
cdef Sending sending(ASGICalls calls, message)
cpdef received(message)
