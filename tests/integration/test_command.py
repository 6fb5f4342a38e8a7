"""The installed command: which Python and which package it finds, whatever surrounds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import sdbox
from tests.pace import seconds

CHECKOUT = Path(__file__).parent.parent.parent
COMMAND = CHECKOUT / "packaging" / "sdbox"
SYSTEM_PYTHON = "/usr/bin/python3"
# Where sdbox and its dependencies are, in the environment of the tests.
PACKAGE = Path(sdbox.__file__).parent
DEPENDENCIES = [Path(entry) / "dbus_next" for entry in sys.path]

SECONDS = seconds(30)


def run(
    *command: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=os.environ | (environment or {}),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


def library_of(python: str | Path) -> str:
    """The name of the directory that a Python has its packages in."""
    program = "import sys; print('python{}.{}'.format(*sys.version_info))"
    return run(python, "-I", "-c", program).stdout.strip()


def environment_at(prefix: Path, packages: str) -> Path:
    """Install the command in a new environment, as a wheel's installer does; return its place."""
    command = prefix / "bin" / "sdbox"
    command.parent.mkdir(parents=True)
    shutil.copy(COMMAND, command)
    directory = prefix / "lib" / packages
    directory.mkdir(parents=True)
    (directory / "sdbox").symlink_to(PACKAGE)
    (directory / "dbus_next").symlink_to(next(filter(Path.is_dir, DEPENDENCIES)))
    return command


@pytest.fixture
def other_python() -> str:
    """A Python of another version than the system's."""
    system = library_of(SYSTEM_PYTHON)
    for minor in range(11, 20):
        program = shutil.which(f"python3.{minor}")
        if program is not None and library_of(program) not in ("", system):
            # What is on the PATH may be a script that chooses one by its own name.
            return run(program, "-I", "-c", "import sys; print(sys.executable)").stdout.strip()
    pytest.skip("there is no second Python here, of 3.11 or newer")


def assert_runs(command: Path, **environment: str) -> None:
    done = run(command, "--version", environment=environment)
    assert done.stdout == f"sdbox {sdbox.__version__}\n", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("packages", ["{}/site-packages", "python3/dist-packages"])
def test_finds_the_package_beside_it(tmp_path: Path, packages: str) -> None:
    assert_runs(environment_at(tmp_path, packages.format(library_of(SYSTEM_PYTHON))))


def test_is_found_through_a_symlink(tmp_path: Path) -> None:
    packages = f"{library_of(SYSTEM_PYTHON)}/site-packages"
    command = environment_at(tmp_path / "a prefix", packages)
    link = tmp_path / "sdbox"
    link.symlink_to(command)
    assert_runs(link)


def test_variables_that_are_meant_for_the_job_do_nothing(tmp_path: Path) -> None:
    packages = f"{library_of(SYSTEM_PYTHON)}/site-packages"
    trap = tmp_path / "trap"
    trap.mkdir()
    for module in ("sdbox", "os", "sitecustomize", "usercustomize"):
        (trap / f"{module}.py").write_text("raise SystemExit('trapped')\n")
    assert_runs(
        environment_at(tmp_path / "prefix", packages),
        PYTHONHOME=str(trap),
        PYTHONPATH=str(trap),
        PYTHONSTARTUP=str(trap / "os.py"),
    )


def test_nothing_beside_the_command_is_imported(tmp_path: Path) -> None:
    packages = f"{library_of(SYSTEM_PYTHON)}/site-packages"
    command = environment_at(tmp_path, packages)
    for directory in (command.parent, tmp_path / "lib" / packages):
        (directory / "argparse.py").write_text("raise SystemExit('trapped')\n")
    assert_runs(command)


def test_starts_again_with_the_environments_own_python(tmp_path: Path, other_python: str) -> None:
    command = environment_at(tmp_path, f"{library_of(other_python)}/site-packages")
    (command.parent / "python3").symlink_to(other_python)
    assert_runs(command)


def test_an_editable_install_is_found_by_site(tmp_path: Path) -> None:
    subprocess.run([SYSTEM_PYTHON, "-m", "venv", "--without-pip", tmp_path], check=True)
    shutil.copy(COMMAND, tmp_path / "bin")
    (packages,) = tmp_path.glob("lib/python*/site-packages")
    dependencies = next(filter(Path.is_dir, DEPENDENCIES)).parent
    (packages / "editable.pth").write_text(f"{PACKAGE.parent}\n{dependencies}\n")
    assert_runs(tmp_path / "bin" / "sdbox")


def test_one_clear_line_where_there_is_no_package(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "sdbox"
    command.parent.mkdir()
    shutil.copy(COMMAND, command)
    done = run(command, "--version")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("sdbox: No module named 'sdbox'")
    assert str(tmp_path) in line


def test_what_is_installed_is_this_command_and_compiled() -> None:
    installed = Path(sys.executable).with_name("sdbox")
    if not installed.exists():
        pytest.skip("sdbox is not installed beside this Python: tests/run does that")
    assert installed.read_bytes() == COMMAND.read_bytes()
    assert os.access(installed, os.X_OK)
    # PEP 561: type checkers of programs that use it look at its annotations.
    assert (PACKAGE / "py.typed").exists()
    assert version("sdbox") == sdbox.__version__
    if CHECKOUT in PACKAGE.parents and ".venv" not in PACKAGE.parts:
        pytest.skip("sdbox is imported from the checkout: nobody compiled it")
    found = PACKAGE.rglob("__pycache__/*.pyc")
    compiled = {path.parent.with_name(path.name.partition(".")[0]) for path in found}
    assert compiled == {path.with_suffix("") for path in PACKAGE.rglob("*.py")}
