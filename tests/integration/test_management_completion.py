"""Completion in a real bash."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_terminal import Terminal

if TYPE_CHECKING:
    from tests.conftest import Sdbox

SCRIPT = Path(__file__).parents[2] / "packaging/completions/sdbox.bash"


@pytest.fixture
def path(sdbox: Sdbox, tmp_path: Path) -> Path:
    """A directory with `sdbox` in it, for PATH."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "sdbox").write_text(f'#!/bin/sh\nexec {shlex.join(sdbox.command)} "$@"\n')
    (place / "sdbox").chmod(0o755)
    return place


def completed(path: Path, line: str) -> list[str]:
    """What bash would offer at the end of a line, as it splits it into words itself."""
    script = f"""
        PATH={shlex.quote(str(path))}:$PATH
        source {shlex.quote(str(SCRIPT))}
        COMP_LINE={shlex.quote(line)}
        COMP_POINT=${{#COMP_LINE}}
        COMP_WORDS=({_words(line)})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _sdbox
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-uc", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return [word for word in done.stdout.splitlines() if word]


def _words(line: str) -> str:
    """COMP_WORDS as bash has them: = and : are words of their own (COMP_WORDBREAKS)."""
    spaced = line.replace("=", " = ").replace(":", " : ")
    words = spaced.split() + (
        [""] if spaced.endswith(" ") and not line.endswith(("=", ":")) else []
    )
    return shlex.join(words)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sdbox fr", ["freeze"]),
        ("sdbox set", ["set-property"]),
        ("sdbox kill --sig", ["--signal"]),
        ("sdbox kill -s TER", ["TERM"]),
        ("sdbox run -p CPUAff", ["CPUAffinity="]),
        ("sdbox run --manager emb", ["embedded"]),
        ("sdbox embedded sta", ["start", "status"]),
        ("sdbox com", []),
        ("sdbox plot ", []),
    ],
)
def test_words(path: Path, line: str, offered: list[str]) -> None:
    assert completed(path, line) == offered


def test_jobs(sdbox: Sdbox, path: Path) -> None:
    jobs = [sdbox.start_sh("echo up; exec cat") for _ in range(2)]
    for job in jobs:
        job.line()
    ids = sorted(job.id for job in jobs)
    prefix = ids[0].rpartition("-")[0]
    assert completed(path, f"sdbox freeze {prefix}") == ids
    assert completed(path, f"sdbox show {ids[0]} {prefix}") == ids[1:]
    assert completed(path, f"sdbox kill sdbox-{prefix}") == sorted(job.unit for job in jobs)
    assert completed(path, f"sdbox set-property {ids[0]} MemoryH") == ["MemoryHigh="]
    for job in jobs:
        job.end()


def test_ids_with_colons(sdbox: Sdbox, path: Path) -> None:
    job = sdbox.new_id() + ":x:y"
    sdbox.ids.append(job)
    running = subprocess.Popen(
        [*sdbox.command, "run", f"--id={job}", "--", "sh", "-c", "echo up; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    running.stdout.readline()
    # bash replaces what is after the last colon only.
    offered = [completed(path, f"sdbox freeze {job[:-n]}") for n in (1, 2, 3)]
    running.communicate(timeout=60)
    assert offered == [["y"], ["x:y"], ["x:y"]]


def test_at_a_terminal(sdbox: Sdbox, path: Path) -> None:
    job = sdbox.start_sh("echo up; exec cat")
    job.line()
    terminal = Terminal(["bash", "--norc", "-i"], {"PATH": f"{path}:/usr/bin:/bin"})
    terminal.type(f"bind 'set bell-style none'; source {SCRIPT}; echo re\"\"ady\n")
    terminal.expect("ready")
    terminal.type(f'sdbox freeze {job.id}\t && echo do""ne\n')
    terminal.expect("done")
    terminal.type(f'sdbox tha\t{job.id[:-1]}\t && echo tha""wed\n')
    terminal.expect("thawed")
    terminal.type("exit\n")
    terminal.process.wait(30)
    job.end()
