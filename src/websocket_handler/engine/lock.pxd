# cython: language_level=3
"""A lock of the operating system for native code: no attribute or method of Python per use."""

from cpython.pythread cimport (
    NOWAIT_LOCK,
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)


cdef inline PyThread_type_lock new_lock() except NULL:
    cdef PyThread_type_lock lock = PyThread_allocate_lock()
    if lock is NULL:
        raise MemoryError
    return lock


cdef inline void free_lock(PyThread_type_lock lock) noexcept:
    """Free the lock; NULL if `new_lock` has raised."""
    if lock is not NULL:
        PyThread_free_lock(lock)


cdef inline void acquire_lock(PyThread_type_lock lock) noexcept:
    """Wait for the lock, without the GIL: the thread that holds it may need that."""
    if not PyThread_acquire_lock(lock, NOWAIT_LOCK):
        with nogil:
            PyThread_acquire_lock(lock, WAIT_LOCK)


cdef inline void release_lock(PyThread_type_lock lock) noexcept:
    PyThread_release_lock(lock)
