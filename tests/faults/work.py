"""What the workers of `test_disks.py` do; without TensorFlow, which each would load."""

import errno
import os
import signal
import time


def doubled(number: int) -> int:
    if number == 3:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return 2 * number


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def orphaned(number: int) -> int:
    """Kills the process that forked the workers, once."""
    if number == 1:
        time.sleep(0.5)  # until it waits for them
        os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.5)
    return number
