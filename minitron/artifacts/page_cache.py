"""The system's cache of file pages: given back after large reads and writes, where the system can be told so."""

import os


def drop_pages(descriptor: int, offset: int, nbytes: int) -> None:
    """Tells the system that a range of an open file will not be read again soon; does nothing where it takes no advice.

    Pages that were written begin to go to the disk, so that a later sync has little left to wait for. macOS and Windows
    take no such advice.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, nbytes, os.POSIX_FADV_DONTNEED)
