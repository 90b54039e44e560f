"""A local worker: a process that audits one cell after the other, and ends with the driver that it serves.

Nothing heavy is imported before the number of threads and the graphics card are settled. What the audit or its
libraries print goes nowhere: names and values of private samples stay out of logs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

LOOK = 1.0
"""Seconds between two looks at whether the driver lives; chosen."""
READY = b"ready"
"""What a worker sends before its first result, when it has imported all that an audit needs: a cell's time begins."""


def serve(connection: Connection, environment: Mapping[str, str], driver: int) -> None:
    """Audit the cells that come in, and send back their results as archives.

    Args:
        connection: Gives the function that audits, then tasks.
        environment: Variables to set before anything is imported; torch takes its number of threads from there.
        driver: Number of the process that is served.
    """
    os.setpgid(0, 0)  # Ctrl-C on the terminal is the driver's; what the worker starts ends with it
    _silence()
    os.environ.update(environment)
    threading.Thread(target=_follow, args=(driver,), daemon=True).start()
    audit = connection.recv()

    from leakaudit.sweeps.cells import run_cell

    connection.send_bytes(READY)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send_bytes(run_cell(task, audit).pack())


def _silence() -> None:
    """Lead standard output and error into nothing."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


def _follow(driver: int) -> None:
    """End at once when the driver has ended, however that came."""
    while os.getppid() == driver:
        time.sleep(LOOK)
    os._exit(1)
