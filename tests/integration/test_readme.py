"""Every command, program and sample of the README is run, in its order, as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import config, embedded
from sdbox.journal.events import EVENTS
from sdbox.result import REPORT_FIELDS
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parent.parent.parent
INSTALLED = Path(sys.executable).parent

# A block, and before it what a reader does not see: the exit status that it is to have.
_BLOCK = re.compile(r"(?:<!-- exits (\d+) -->\n)?```(\w*)\n(.*?)```\n", re.DOTALL)
SECONDS = seconds(60)


@dataclass(frozen=True, kw_only=True)
class Block:
    language: str
    text: str
    status: int


def blocks(*languages: str) -> list[Block]:
    found = [
        Block(language=language, text=text, status=int(status or 0))
        for status, language, text in _BLOCK.findall((CHECKOUT / "README.md").read_text())
    ]
    assert {block.language for block in found} == {"sh", "toml", "json", "python"}
    return [block for block in found if block.language in languages]


def first_line(block: Block) -> str:
    return block.text.partition("\n")[0]


# This is what runs the tests, and what is a test of its own below.
_ELSEWHERE = ("tests/run", "packaging/install")
COMMANDS = [block for block in blocks("sh") if not block.text.startswith(_ELSEWHERE)]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Where the commands are run: with the README's configuration, and what they refer to."""
    # Not below /tmp, where a job with PrivateTmp= does not find its working directory.
    place = Path(tempfile.mkdtemp(prefix="sdbox-readme-", dir="/srv"))
    (configuration,) = blocks("toml")
    (place / "sdbox.toml").write_text(configuration.text)
    made = [made_root(root) for root in config.load(str(place / "sdbox.toml")).roots.values()]
    (place / "tests").symlink_to(CHECKOUT / "tests")
    (place / ".venv").symlink_to(sys.prefix)
    running = embedded.find() is not None
    yield place
    for root in (place, *made):
        shutil.rmtree(root)
    if not running:
        embedded.stop()


def made_root(path: str) -> Path:
    """A root directory with a shell in it; return the topmost directory that had to be made."""
    root, busybox = Path(path), shutil.which("busybox")
    assert busybox is not None
    assert not root.exists(), "this is somebody's"
    made = [above for above in (root, *root.parents) if not above.exists()][-1]
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which `sdbox` is the command under test."""
    if (INSTALLED / "sdbox").exists():
        return f"{INSTALLED}:{os.environ['PATH']}"
    place = tmp_path_factory.mktemp("bin")
    program = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from sdbox.cli import entry"
    (place / "sdbox").write_text(f"#!{sys.executable} -I\n{program}\nentry()\n")
    (place / "sdbox").chmod(0o755)
    return f"{place}:{os.environ['PATH']}"


def run(command: list[str | Path], directory: Path, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("block", COMMANDS, ids=first_line)
def test_commands(block: Block, directory: Path, path: str) -> None:
    done = run(["bash", "-euo", "pipefail", "-c", block.text], directory, path)
    assert done.returncode == block.status, done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=["sync", "async", "jobs"])
def test_programs(block: Block, directory: Path, path: str) -> None:
    done = run([sys.executable, "-I", "-c", block.text], directory, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout != ""


def test_configuration_is_one(directory: Path) -> None:
    configuration = config.load(str(directory / "sdbox.toml"))
    assert "MemoryMax" in configuration.box("small").directives


def test_report_has_the_fields_of_one() -> None:
    (block,) = blocks("json")
    assert tuple(json.loads(block.text)) == REPORT_FIELDS


def test_the_tests_command_is_there() -> None:
    (block,) = (block for block in blocks("sh") if block.text.startswith("tests/run"))
    assert os.access(CHECKOUT / block.text.strip(), os.X_OK)


@pytest.mark.installs
@pytest.mark.timeout(300)
def test_installs_and_runs_the_main_job() -> None:
    """The first command, in mounts of its own, so that nothing of it is installed here."""
    if os.geteuid() != 0:
        pytest.skip("packaging/install needs root")
    (block,) = (block for block in blocks("sh") if block.text.startswith("packaging/install"))
    script = f"""
        mount -t tmpfs tmpfs /opt
        mount -t tmpfs tmpfs /usr/local/bin
        mount -t tmpfs tmpfs /usr/local/lib
        mount -t tmpfs tmpfs /usr/local/share
        mount -t tmpfs tmpfs /var/lib/systemd/catalog
        cp -a --no-preserve=ownership {CHECKOUT} /opt/checkout
        cd /opt/checkout
        {block.text}
        status=$?
        journalctl --list-catalog {EVENTS["finished"].id} >&2
        systemd-tmpfiles --cat-config | grep sdbox-private >&2
        exit $status
    """
    unshare = shutil.which("unshare")
    assert unshare is not None
    done = subprocess.run(
        [unshare, "--mount", "bash", "-c", script],
        env=os.environ | {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == block.status, done.stdout + done.stderr
    # The PID in its own namespace, and then the names of the two directories, with nothing below.
    assert re.search(r"\n[12]\n/tmp:\n\n/var/tmp:\n$", done.stdout), done.stdout
    assert "sdbox: Job @SDBOX_JOB@ has finished" in done.stderr
    assert "R! /var/tmp/sdbox-private-*" in done.stderr
