"""requirements.lock is what ``make`` and CI install; it has to be what the requirements files ask for."""

import re

from tests.hostprocess import REPOSITORY

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def pins(name: str) -> set[tuple[str, str]]:
    """Return the packages that a file pins, each with its version."""
    found = PIN.findall((REPOSITORY / name).read_text(encoding="utf-8"))
    return {(re.sub(r"[-_.]+", "-", package).lower(), version) for package, version in found}


def test_the_lock_holds_what_the_requirements_files_pin() -> None:
    asked = pins("requirements.txt") | pins("requirements-dev.txt")

    assert asked - pins("requirements.lock") == set(), "run make lock"


def test_every_requirement_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
        asked = [line for line in lines if line and not line.startswith(("#", "-r "))]
        assert len(pins(name)) == len(asked), name


def test_the_lock_has_a_hash_for_each_package_and_names_no_registry() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")

    assert not re.search(r"://|^--?[a-z]", lock, re.MULTILINE)
    for block in re.split(r"\n(?=\S)", lock):
        assert block.startswith("#") or "--hash=sha256:" in block, block
