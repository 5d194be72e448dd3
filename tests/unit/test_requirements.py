"""What is imported is declared and pinned, and requirements.lock is what the requirements files ask for."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, PackagePath, files
from pathlib import Path

from devhost.testing import REPOSITORY

# It is installed where no app is, too, with an extra of its own.
CLIENT = REPOSITORY / "agentstream" / "client.py"
APP = [
    *REPOSITORY.glob("*.py"),
    *(path for folder in ("agentstream", "travel_planner") for path in (REPOSITORY / folder).rglob("*.py")),
]
APP.remove(CLIENT)
ALL = ("requirements.txt", "requirements-dev.txt", "requirements-browser.txt")
TOOLS = [path for folder in ("benchmarks", "devhost", "infra", "tests") for path in (REPOSITORY / folder).rglob("*.py")]
OWN = {path.stem for path in REPOSITORY.glob("*.py")} | {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
REQUIREMENT = re.compile(r"([\w.-]+)(?:\[\w+\])?(\S*?)(?:;.*)?")


def requirements(*names: str) -> dict[str, str]:
    """Return what these files ask for: of each package, which version."""
    lines = [line for name in names for line in (REPOSITORY / name).read_text().splitlines()]
    matches = [REQUIREMENT.fullmatch(line) for line in lines if not line.startswith(("#", "-r"))]
    return {match[1]: match[2] for match in matches if match}


def imported(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the names of the modules of others that these modules import."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if is_foreign(alias.name))
            elif isinstance(node, ast.ImportFrom) and node.module and is_foreign(node.module):
                yield node.module


def is_foreign(module: str) -> bool:
    return module.split(".")[0] not in OWN | sys.stdlib_module_names


def modules(package: str) -> set[str]:
    """Return the names of a package's modules; of one that is not installed, its own."""
    try:
        return {module_name(path) for path in files(package) or () if path.suffix in {".py", ".so"}}
    except PackageNotFoundError:
        return {package.replace("-", "_")}


def module_name(path: PackagePath) -> str:
    parts = [*path.parts[:-1], path.name.split(".")[0]]
    return ".".join(part for part in parts if part != "__init__")


def undeclared(paths: Iterable[Path], declared: Iterable[str]) -> set[str]:
    names = set[str]().union(*map(modules, declared))
    absent = {package.replace("-", "_") for package in declared if not is_installed(package)}
    return {name for name in imported(paths) if name not in names and name.split(".")[0] not in absent}


def is_installed(package: str) -> bool:
    try:
        return files(package) is not None
    except PackageNotFoundError:
        return False


def test_the_app_imports_what_azure_installs() -> None:
    assert undeclared(APP, requirements("requirements.txt")) == set()


def test_the_client_imports_what_its_extra_installs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = [re.split(r"[<>=]", requirement)[0] for requirement in project["optional-dependencies"]["client"]]

    assert undeclared([CLIENT], extra) == set()


def test_everything_else_imports_what_is_declared() -> None:
    assert undeclared(TOOLS, requirements(*ALL)) == set()


def test_everything_is_pinned() -> None:
    for package, version in requirements(*ALL).items():
        assert re.fullmatch(r"==[\w.]+", version), package


def pins(name: str) -> set[tuple[str, str]]:
    """Return the packages that a file pins, each with its version."""
    found = PIN.findall((REPOSITORY / name).read_text(encoding="utf-8"))
    return {(re.sub(r"[-_.]+", "-", package).lower(), version) for package, version in found}


def test_the_lock_holds_what_the_requirements_files_pin() -> None:
    asked = pins("requirements.txt") | pins("requirements-dev.txt")

    assert asked - pins("requirements.lock") == set(), "run make lock"


def test_the_lock_has_a_hash_for_each_package_and_names_no_registry() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")

    assert not re.search(r"://|^--?[a-z]", lock, re.MULTILINE)
    for block in re.split(r"\n(?=\S)", lock):
        assert block.startswith("#") or "--hash=sha256:" in block, block
