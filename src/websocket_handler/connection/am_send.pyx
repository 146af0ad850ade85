# cython: language_level=3
"""Sets the slot `am_send` of `NextMessage`, which neither Python nor Cython code can define.

The interpreter calls it for `await`, and a Task calls it for its coroutine: the message is then the
return value of a C function. Without the slot it is the value of a `StopIteration`.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from .inbox cimport NextMessage

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
    """Store the message, or the inbox that the Task must wait for."""
    cdef NextMessage self = <NextMessage>awaitable
    cdef int kind = PYGEN_RETURN
    cdef object found = self.resume()
    if found is None:
        found = self._inbox
        kind = PYGEN_NEXT
    Py_INCREF(found)
    result[0] = <PyObject *>found
    return kind


set_am_send(next_message_type, send)
