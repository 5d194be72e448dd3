"""What a cold start imports."""

import asyncio
import re
import statistics
import sys
from collections import defaultdict

from benchmarks.measure import OURS, Figure
from devhost.testing import REPOSITORY

ROUNDS = 5
DEAREST = 5
PROGRAM = """
import pathlib, re, resource, time
start = time.perf_counter()
import function_app
seconds = time.perf_counter() - start
status = pathlib.Path("/proc/self/status")
if status.exists():
    # On Linux getrusage(2) tells the peak of the process that started this one, where that was greater.
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(seconds, peak / 2**20)
"""
_IMPORT_TIME = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)")


async def import_app(_url: str) -> list[Figure]:
    """The time and peak memory of ``import function_app``, and the five dearest packages in it."""
    measured = [(await _python("-c", PROGRAM))[0].split() for _ in range(ROUNDS)]
    seconds, megabytes = zip(*((float(seconds), float(peak)) for seconds, peak in measured), strict=True)
    shares = [_by_package((await _python("-X", "importtime", "-c", "import function_app"))[1]) for _ in range(ROUNDS)]
    packages = sorted(shares[0], key=lambda name: statistics.median(share[name] for share in shares), reverse=True)
    dearest = {name: [share[name] for share in shares] for name in packages[:DEAREST]}
    return [
        Figure("import of function_app", "s", {OURS: seconds}, wanted={OURS: 1.5}),
        Figure("import of function_app, peak memory", "MB", {OURS: megabytes}),
        Figure("import of function_app, the dearest packages' own modules", "ms", dearest),
    ]


async def _python(*arguments: str) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise ChildProcessError(errors.decode())
    return output.decode(), errors.decode()


def _by_package(import_times: str) -> dict[str, float]:
    """Return the time that the modules of each top-level package took themselves, in ms."""
    packages: dict[str, float] = defaultdict(float)
    for microseconds, module in _IMPORT_TIME.findall(import_times):
        packages[module.partition(".")[0]] += int(microseconds) / 1000
    return packages
