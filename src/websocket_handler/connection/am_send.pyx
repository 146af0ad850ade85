# cython: language_level=3
"""Sets the slot `am_send` of `FramelessCoroutine`, which neither Python nor Cython code can define.

The interpreter calls it for `await`, and a Task calls it for its coroutine: the result is then the
return value of a C function. Without the slot it is the value of a `StopIteration`. A class that
derives from `FramelessCoroutine` inherits the slot if its module is imported after this one.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from .inbox cimport FramelessCoroutine, NextMessage

from .inbox import FramelessCoroutine as frameless_coroutine_type
from .inbox import NextMessage as next_message_type


cdef extern from *:
    """
    static void set_am_send(PyObject *type, int (*send)(PyObject *, PyObject *, PyObject **))
    {
        PyAsyncMethods *methods = ((PyTypeObject *)type)->tp_as_async;

        if (methods)
            methods->am_send = (sendfunc)(void (*)(void))send;
    }
    """
    void set_am_send(object kind, int (*send)(PyObject *, PyObject *, PyObject **) except -1)
    enum:
        PYGEN_RETURN
        PYGEN_NEXT


cdef int send(PyObject *awaitable, PyObject *value, PyObject **result) except -1:
    """Store the result, or the object that the Task must wait for."""
    cdef FramelessCoroutine self = <FramelessCoroutine>awaitable
    cdef int kind = PYGEN_RETURN if self.resume() else PYGEN_NEXT
    cdef object found = self._value
    self._value = None
    Py_INCREF(found)
    result[0] = <PyObject *>found
    return kind


set_am_send(frameless_coroutine_type, send)
set_am_send(next_message_type, send)
