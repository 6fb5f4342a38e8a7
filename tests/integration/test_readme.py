"""Every command, program and sample of the README is run, in its order, as it stands there."""

from __future__ import annotations

import argparse
import contextlib
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
from sdbox.cli.parser import parser_for
from sdbox.directives import DIRECTIVES
from sdbox.journal.events import EVENTS
from sdbox.result import REPORT_FIELDS
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parent.parent.parent
INSTALLED = Path(sys.executable).parent
README = (CHECKOUT / "README.md").read_text()

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
        for status, language, text in _BLOCK.findall(README)
    ]
    assert {block.language for block in found} == {"sh", "toml", "json", "python"}
    return [block for block in found if block.language in languages]


def first_line(block: Block) -> str:
    return block.text.partition("\n")[0]


# This is what runs the tests, and what is a test of its own below.
_ELSEWHERE = ("tests/run", "packaging/install")
COMMANDS = [block for block in blocks("sh") if not block.text.startswith(_ELSEWHERE)]


# Where the command lines are run, and what holds that: a mount namespace with the root directory of
# the README's configuration, which is nobody else's then, and gone with whoever runs the tests.
@dataclass(frozen=True, kw_only=True)
class Place:
    directory: Path
    holder: int

    def run(self, command: list[str | Path], path: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", "--"]
        # Once it is there: a directory that is entered before is one outside.
        there: list[str | Path] = ["sh", "-c", 'cd "$0" && exec "$@"', self.directory]
        return subprocess.run(
            [*inside, *there, *command],
            env=os.environ | {"PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )


# An overlay, so that all that there is stays in its place; the root itself is not on it, since of
# overlays on overlays there can only be so many.
HOLDER = """
layers=$1 above=$2 root=$3 busybox=$4
mount -t tmpfs tmpfs "$layers"
mkdir "$layers/upper" "$layers/work"
mount -t overlay -o "lowerdir=$above,upperdir=$layers/upper,workdir=$layers/work" overlay "$above"
mkdir -p "${root%/*}"
mount -t tmpfs -o mode=755 tmpfs "${root%/*}"
mkdir -p "$root/bin"
cp "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"
echo ready
read line
"""


@contextlib.contextmanager
def holder_of(root: str, layers: Path) -> Iterator[int]:
    """What holds a mount namespace in which there is a root directory with a shell in it."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    arguments = map(str, (layers, Path(root).parents[-2], root, busybox))
    command = ["unshare", "--mount", "sh", "-euc", HOLDER, "sh", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            yield holder.pid
        finally:
            holder.kill()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Where the commands are run: with the README's configuration, and what they refer to."""
    running = embedded.find() is not None
    # Not below /tmp, where a job with PrivateTmp= does not find its working directory.
    with tempfile.TemporaryDirectory(prefix="sdbox-readme-", dir="/var/lib") as name:
        directory, layers = Path(name, "here"), Path(name, "layers")
        directory.mkdir()
        layers.mkdir()
        (configuration,) = blocks("toml")
        (directory / "sdbox.toml").write_text(configuration.text)
        (directory / "tests").symlink_to(CHECKOUT / "tests")
        (directory / ".venv").symlink_to(sys.prefix)
        (root,) = config.load(str(directory / "sdbox.toml")).roots.values()
        with holder_of(root, layers) as holder:
            yield Place(directory=directory, holder=holder)
            if not running:
                embedded.stop()


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


@pytest.mark.parametrize("block", COMMANDS, ids=first_line)
def test_commands(block: Block, place: Place, path: str) -> None:
    done = place.run(["bash", "-euo", "pipefail", "-c", block.text], path)
    assert done.returncode == block.status, done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("python"), ids=["sync", "async", "jobs", "schema"])
def test_programs(block: Block, place: Place, path: str) -> None:
    done = place.run([sys.executable, "-I", "-c", block.text], path)
    assert done.returncode == 0, done.stderr
    assert done.stdout != ""


def test_configuration_is_one(place: Place) -> None:
    configuration = config.load(str(place.directory / "sdbox.toml"))
    assert "MemoryMax" in configuration.box("small").directives


# What it says of other programs.
OF_OTHERS = {"--all", "--hypothesis-profile", "--no-pager", "--unit", "--user-unit"}


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All options of a parser and of its verbs."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from options(verb)


def test_options_are_ones() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert named - set(options(parser_for(()))) == OF_OTHERS


def test_settings_have_the_options_that_it_says() -> None:
    rows = re.findall(r"^\| ([A-Z][^|]*) \| ([^|]*) \| [^|]* \| [^|]*\|$", README, re.MULTILINE)
    assert len(rows) > 20
    for settings, flags in rows:
        directives = [DIRECTIVES[name] for name in settings.split(", ") if name in DIRECTIVES]
        assert directives or settings.startswith("LimitNOFILE")
        there = [row.option.flag for row in directives if row.option is not None]
        assert re.findall(r"--[a-z-]+", flags) == there, settings


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
