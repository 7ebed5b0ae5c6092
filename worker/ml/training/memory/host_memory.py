"""Keep the host's freed memory for the next step instead of giving it back to the system."""

import ctypes
import platform
from contextlib import suppress

_MIB = 1024**2
# malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Let glibc's allocator hold on to large blocks; nothing happens with another C library.

    Every step frees and allocates the same activations. By default blocks of many kilobytes go
    back to the system each time, which clears them anew: 6% of a step of a small base on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 512 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 512 * _MIB)
        mallopt(_M_TOP_PAD, 32 * _MIB)
