"""What a machine is booted for: a tar with the checkout, sdbox as installed, and a script."""

from __future__ import annotations

import io
import os
import shlex
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .commands import WITH_US, run
from .image import CHECKOUT, tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .image import Image

_SECONDS = 120.0
# As pyproject.toml has it.
_TEST_SECONDS = 120.0
_SUITE = ("sh", "checkout/tests/vm/guest/suite")
# A shell on the machine's terminal, which as a controlling terminal gives job control and ^C.
_SHELL = "exec env TERM={} setsid --ctty --wait bash -l <>/dev/ttyS0 >&0 2>&1"


def suite(
    place: Path, image: Image, slowness: float, repetitions: float, arguments: Sequence[str]
) -> None:
    """Order the tests that pytest's arguments name; `tests/pace.py` has the two numbers."""
    pace = (f"SDBOX_TEST_SLOWNESS={slowness:g}", f"SDBOX_TEST_REPETITIONS={repetitions:g}")
    timeout = f"--override-ini=timeout={_TEST_SECONDS * slowness:g}"
    script = shlex.join(["env", *pace, *_SUITE, timeout, *arguments])
    with tempfile.TemporaryDirectory() as directory:
        installed = Path(directory, "installed.tar")
        wheels = Path(directory, "wheels")
        wheels.mkdir()
        _build_wheel(wheels)
        image.install(wheels, installed)
        _write(place, script, {installed.name: installed, **_checkout()})


def command(place: Path, words: Sequence[str]) -> None:
    """Order one command, in the checkout's directory."""
    _write(place, f"cd checkout\n{shlex.join(words)}", _checkout())


def shell(place: Path) -> None:
    """Order a shell on the machine's terminal."""
    program = _SHELL.format(shlex.quote(os.environ.get("TERM", "dumb")))
    _write(place, f"cd checkout\n{program}", _checkout())


def _checkout() -> dict[str, Path]:
    """Return the files of the checkout as it is now, committed or not, but nothing ignored."""
    git = ("git", "-C", CHECKOUT, "-c", f"safe.directory={CHECKOUT}")
    listed = run([*git, "ls-files", "-z", "-co", "--exclude-standard"], seconds=_SECONDS)
    names = [name for name in listed.split("\0") if (CHECKOUT / name).is_file()]
    return {f"checkout/{name}": CHECKOUT / name for name in names}


def _build_wheel(directory: Path) -> None:
    build = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run([*WITH_US, tools(), "-m", *build, f"--wheel-dir={directory}", CHECKOUT], seconds=_SECONDS)


def _write(place: Path, script: str, files: dict[str, Path]) -> None:
    with tarfile.open(place, "w") as tar:
        text = f"{script}\n".encode()
        member = tarfile.TarInfo("order")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
        for name, path in files.items():
            tar.add(path, name, recursive=False)
