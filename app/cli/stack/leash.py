"""Become another program that dies with its parent, so that a killed supervisor leaves no orphan.

Run as a script: `python leash.py PARENT_PID SIGNAL USER COMMAND…`. It uses the standard library
alone, because it starts before each child and its milliseconds are paid by all of them.

PARENT_PID: who started us. SIGNAL: the number that the kernel sends us when that *thread* ends.
USER: `uid:gid` to become first, or `-` to stay. The process id is kept: there is no fork.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Drop privileges, ask for the signal, become the command."""
    parent_pid, signal_number, user, *command = arguments
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Only Linux can do this. It comes after setuid, which would clear it, and survives exec.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal_number), 0, 0, 0)
        if os.getppid() != int(parent_pid):
            sys.exit("the supervisor ended before this child began")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
