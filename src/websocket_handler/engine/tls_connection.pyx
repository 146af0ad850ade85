# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The layer between a channel and a TLS socket.

It calls the methods of OpenSSL's object, and holds the lock that they need, without an attribute, a
method or an exception of Python per call where there is another way.
"""

import contextlib
import socket
from ssl import SSLWantReadError, SSLWantWriteError

from .tls import SSLSocket, beneath_tls, close_tls, is_of_gevent, take_from_gevent
from .linux cimport FIONREAD, ioctl
from .lock cimport acquire_lock, free_lock, new_lock, release_lock


cdef extern from "Python.h":
    object PyObject_CallOneArg(object call, object argument)


cdef class TlsConnection:
    """The layer between a channel and a non-blocking TLS socket. Owns the descriptor.

    `acquire` must be called before every method but `fileno`, and `release` after it: an OpenSSL
    object may be used by one thread at a time. In Python, `with layer:` does that. OpenSSL reads no
    byte beyond a record from the socket, so epoll reports everything that follows.
    """

    def __cinit__(self, *_):
        self.lock = new_lock()

    def __init__(self, sock):
        self.sock = take_from_gevent(sock) if is_of_gevent(sock) else sock
        beneath_tls(self.sock).setblocking(False)
        self.reads_ahead = type(self.sock).read is not SSLSocket.read
        stream = self.sock
        if not self.reads_ahead:
            stream = stream._sslobj or stream  # None in a socket that has no TLS connection
        self.read_record, self.write_record = stream.read, stream.write

    def __dealloc__(self):
        free_lock(self.lock)

    def __enter__(self):
        self.acquire()

    def __exit__(self, *_):
        self.release()

    is_pollable = True

    cdef void acquire(self) noexcept:
        acquire_lock(self.lock)

    cdef void release(self) noexcept:
        release_lock(self.lock)

    def fileno(self):
        return beneath_tls(self.sock).fileno()

    cpdef ssize_t read(self, bytearray buffer, size_t size) except -2:
        """Read one record, or `size` bytes of it, into `buffer`. Returns the number of bytes; 0
        after the end of the input, -1 if there is none now, or after `close`."""
        if self.read_record is None:
            return -1
        try:
            return self.read_record(size, buffer)
        except (SSLWantReadError, SSLWantWriteError):
            return -1
        except (OSError, ValueError):
            return 0

    cpdef ssize_t write(self, bytes data) except -1:
        """Write one record. Returns the number of bytes accepted; 0 if it must wait, then the call
        must be repeated with the same data. Raises `OSError` if the connection is lost or closed.
        """
        if self.write_record is None:
            raise BrokenPipeError
        self.wants_input = False
        try:
            return PyObject_CallOneArg(self.write_record, data)
        except SSLWantReadError:
            self.wants_input = True
            return 0
        except SSLWantWriteError:
            return 0

    cdef bint has_unread_data(self, int fd) noexcept:
        """Whether there may be data to read, in the socket `fd` or in its object. Costs less than a
        read that raises."""
        cdef int count = 0
        return self.reads_ahead or ioctl(fd, FIONREAD, &count) != 0 or count > 0

    def end_output(self):
        """End the sending direction: send close_notify, then FIN."""
        with contextlib.suppress(OSError, ValueError):
            SSLSocket.unwrap(self.sock)
        with contextlib.suppress(OSError):
            beneath_tls(self.sock).shutdown(socket.SHUT_WR)

    def close(self):
        """Close the descriptor, and let go of OpenSSL's object. A thread that has waited for the
        lock may still call the other methods: OpenSSL would go on to use the number of the
        descriptor, which may belong to another connection by then."""
        self.read_record = self.write_record = None
        close_tls(self.sock)
