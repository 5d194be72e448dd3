"""Telling a process from a later one with the same id, and replacing this one."""

import os
import subprocess
import sys
from pathlib import Path


def process_start_time(pid: int) -> str:
    """When the process started, in whatever form the system tells it; empty when there is no such process."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # Field 22; the second field is the command's name in parentheses and may hold spaces.
            state, *rest = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if state == "Z" else rest[18]
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    listing = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the argument is a number
    return listing.stdout.strip()


def restart(*arguments: str) -> None:
    """Become a new process of the same command, with these arguments after its own; nothing is run or closed before."""
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's options and module come first among those it was started with.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], *arguments])  # noqa: S606 - this very command
