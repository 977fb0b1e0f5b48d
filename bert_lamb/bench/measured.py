"""Runs a command and prints, as its last line, its processor time in s and its peak memory in MiB.

A program of its own that loads nothing: Linux counts into a child's peak what its parent held when it was forked.
"""

import os
import sys

if __name__ == "__main__":
    child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
    _, status, used = os.wait4(child, 0)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)  # Linux counts in KiB
    sys.exit(os.waitstatus_to_exitcode(status))
