# cython: language_level=3
"""Declares `TlsConnection`; `tls_connection.pyx` implements it."""

from cpython.pythread cimport PyThread_type_lock


cdef class TlsConnection:
    cdef PyThread_type_lock lock
    cdef object sock
    cdef object read_record            # methods of OpenSSL's object; None after `close`
    cdef object write_record
    cdef bint wants_input              # `write` goes on after a read: TLS is renegotiated
    cdef bint reads_ahead              # the socket's class has a `read` of its own

    cdef void acquire(self) noexcept
    cdef void release(self) noexcept
    cpdef ssize_t read(self, bytearray buffer, size_t size) except -2
    cpdef ssize_t write(self, bytes data) except -1
    cdef bint has_unread_data(self, int fd) noexcept
