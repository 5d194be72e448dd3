"""The browser that the tests drive: Debian's, or another Chromium that is installed."""

import importlib.util
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without a sandbox it runs as root, too; the rest keeps it from asking its maker's servers for anything.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str | None:
    """Return the path of the browser; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def why_not() -> str | None:
    """Return why the page cannot be tested here, and what to do; None where it can."""
    if importlib.util.find_spec("playwright") is None:
        return "Playwright is not installed: run make test, or pip install -r requirements-browser.txt"
    if executable() is None:
        return "no Chromium is installed: run .ci/chromium, or apt-get install chromium"
    return None
