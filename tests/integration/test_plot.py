"""A job's usage over time: `sdbox run --record` writes it, `sdbox plot` draws it."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome, Sdbox

CHECKOUT = Path(__file__).parent.parent.parent
MIB = 1 << 20
# As sdbox draws it: 8 by 5 inches of 100 dots each.
SIZE = (800, 500)

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed"
)

# Half a second of one CPU, with 40 megabytes, then a second of rest with 80.
PAYLOAD = """
import time
small = bytearray(40 << 20)
while time.process_time() < 0.5:
    pass
large = bytearray(40 << 20)
time.sleep(1.2)
"""
HEADER: dict[str, Any] = {
    "job": "j1",
    "unit": "sdbox-j1.scope",
    "command": ["./train", "fast"],
    "started_at": 1.5,
    "box": {"MemoryMax": "64M", "CPUQuota": "150%"},
    "memory_limit_bytes": 64 * MIB,
    "cpu_limit": 1.5,
}
SAMPLES = [
    {"seconds": n / 2, "memory_bytes": n * MIB, "cpu_seconds": n / 4, "tasks": 2} for n in range(20)
]

DRAW_ALL = """
import pathlib, sys
sys.path.append(sys.argv[1])
from sdbox.usage.plot import draw
from sdbox.usage.series import read_series
for record in pathlib.Path(sys.argv[2]).glob('*.record'):
    draw(*read_series(str(record)), str(record.with_suffix('.svg')))
"""
WITHOUT_PACKAGES = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from sdbox.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def font_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where matplotlib keeps what it finds out about fonts, which takes it a while once."""
    return tmp_path_factory.mktemp("matplotlib")


@pytest.fixture
def plot(sdbox_command: tuple[str, ...], font_cache: Path) -> Callable[..., Any]:
    """Run `sdbox plot`; what it says, without matplotlib's own word about its fonts."""

    def run(*words: str | Path) -> tuple[int, str]:
        done = subprocess.run(
            [*sdbox_command, "plot", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds(100),
            env=os.environ | {"MPLCONFIGDIR": str(font_cache)},
        )
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines(True) if "font cache" not in line]
        return done.returncode, "".join(lines)

    return run


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record with both limits, which takes no controller."""
    path = tmp_path / "record"
    write(path, HEADER, *SAMPLES)
    return path


def write(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(sdbox: Sdbox, path: Path, *options: str) -> Outcome:
    words = ("--", sys.executable, "-ISc", PAYLOAD)
    return sdbox.run("--memory=256M", f"--record={path}", *options, *words, report=True)


def labels(path: Path) -> set[str]:
    """The texts of an SVG: matplotlib draws them as paths, each with its text as a comment."""
    builder = ElementTree.TreeBuilder(insert_comments=True)
    parser = ElementTree.XMLParser(target=builder)  # noqa: S314 - made here
    root = ElementTree.parse(path, parser).getroot()  # noqa: S314 - made here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    # Whose tag is a string is an element; in comments matplotlib writes entities, too.
    comments = (node.text for node in root.iter() if not isinstance(node.tag, str))
    return {html.unescape(text).strip() for text in comments if text}


def size_of_png(path: Path) -> tuple[int, int]:
    """The size of a PNG; all its parts are there and whole."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    kinds, pixels, at = [], b"", 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        (check,) = struct.unpack_from(">I", data, at + 8 + length)
        assert check == zlib.crc32(kind + body)
        kinds.append(kind)
        pixels += body if kind == b"IDAT" else b""
        at += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    width, height = struct.unpack_from(">II", data, 16)
    # A byte for each line's filter, and four for each pixel.
    assert len(zlib.decompress(pixels)) == height * (1 + 4 * width)
    return width, height


def test_a_jobs_record(sdbox: Sdbox, tmp_path: Path) -> None:
    path = tmp_path / "record"
    done = recorded(sdbox, path)
    assert done.status == 0
    header, *samples = read(path)
    account = done.account
    for same in ("job", "unit", "command", "box", "memory_limit_bytes"):
        assert header[same] == account[same]
    assert header["started_at"] == pytest.approx(account["started_at"], abs=1)
    assert header["cpu_limit"] is None
    times = [sample["seconds"] for sample in samples]
    assert times[0] < seconds(0.5)
    assert len(times) >= 3
    assert all(later - earlier >= 0.45 for earlier, later in pairwise(times))
    assert times[-1] <= account["wall_seconds"]
    cpu = [sample["cpu_seconds"] for sample in samples]
    assert cpu == sorted(cpu)
    assert 0.5 <= cpu[-1] <= account["cpu_user_seconds"] + account["cpu_system_seconds"]
    # The last one may have been taken while the payload went away.
    assert 80 * MIB < max(sample["memory_bytes"] for sample in samples) < 120 * MIB
    assert samples[0]["tasks"] >= 2, "init and the payload"


def test_records_of_the_shortest_jobs_have_a_sample(sdbox: Sdbox, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    assert all(sdbox.run(f"--record={path}", "--", "true").status == 0 for path in paths)
    assert all(len(read(path)) >= 2 for path in paths)


def test_a_record_that_can_not_be_written(sdbox: Sdbox, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    record = tmp_path / "none" / "record"
    done = sdbox.run(f"--record={record}", "--", "touch", str(trace))
    assert done.status == 125
    assert done.err.startswith(f"sdbox: --record: '{record}': No such file or directory. ")
    assert not trace.exists()


@pytest.mark.parametrize("option", ["--record=/dev/full", "--report=/dev/full"])
def test_a_full_disk_does_not_change_how_a_job_ends(sdbox: Sdbox, option: str) -> None:
    done = sdbox.sh("exit 7", option)
    assert done.status == 7
    assert done.err.count("\n") == 1
    assert done.err.startswith(f"sdbox: {option.partition('=')[0]}: ")
    assert "No space left on device" in done.err


@needs_matplotlib
def test_a_picture_of_a_job(
    sdbox: Sdbox, plot: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "record"
    job = recorded(sdbox, path).id
    assert plot(path, "-o", tmp_path / "usage.svg") == (0, "")
    found = labels(tmp_path / "usage.svg")
    assert {"MemoryMax", "memory (MiB)", "CPUs in use", "seconds"} <= found
    assert "CPUQuota" not in found, "nobody asked for that limit"
    assert any(text.startswith(f"{job}: {sys.executable}") for text in found)


@needs_matplotlib
def test_both_limits_are_lines(
    record: Path, plot: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    assert plot(record, "--output", tmp_path / "usage.svg") == (0, "")
    found = labels(tmp_path / "usage.svg")
    assert {"MemoryMax", "CPUQuota", "j1: ./train fast"} <= found


@needs_matplotlib
def test_a_png(record: Path, plot: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    assert plot(record, "-o", tmp_path / "usage.png") == (0, "")
    assert size_of_png(tmp_path / "usage.png") == SIZE


# Commands, and what the pictures call them.
ODD = {
    "formula": (["a", "$x_1$", "$y"], "a $x_1$ $y"),
    "backslash": (["\\frac", "\\$x$"], "\\frac \\$x$"),
    "control": (["a\x01b\x1b[1m", "c\nd"], "a\ufffdb\ufffd[1m c d"),
    "not UTF-8": (["a\udcff"], "a\ufffd"),
    "another script": (["訓練", "\U0001f600"], "訓練 \U0001f600"),
    "markup": (["<b>", "&amp;", "]]>"], "<b> &amp; ]]>"),
    "dashes": (["--", "-->", "-"], None),
    "formulas": (["$" * 300], None),
    "long": (["x" * 300], "x" * 75 + "…"),
}
SHORT = {"no sample": 0, "one sample": 1, "two samples": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, font_cache: Path) -> Path:
    """A directory of pictures of odd records, drawn by one process: each takes its time."""
    directory = tmp_path_factory.mktemp("pictures")
    for name, (command, _) in ODD.items():
        write(directory / f"{name}.record", HEADER | {"command": command}, *SAMPLES)
    for name, count in SHORT.items():
        write(directory / f"{name}.record", HEADER, *SAMPLES[:count])
    unlimited = HEADER | {"memory_limit_bytes": None, "cpu_limit": None}
    unknown = [sample | {"memory_bytes": None, "cpu_seconds": None} for sample in SAMPLES]
    write(directory / "unlimited.record", unlimited, *SAMPLES)
    write(directory / "unknown.record", HEADER, *unknown)
    done = subprocess.run(
        [sys.executable, "-I", "-c", DRAW_ALL, str(CHECKOUT), str(directory)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(100),
        env=os.environ | {"MPLCONFIGDIR": str(font_cache)},
    )
    assert done.returncode == 0, done.stderr
    assert not any("font cache" not in line for line in done.stderr.splitlines()), done.stderr
    return directory


@needs_matplotlib
@pytest.mark.parametrize(("name", "title"), [(name, title) for name, (_, title) in ODD.items()])
def test_odd_commands(pictures: Path, name: str, title: str | None) -> None:
    found = labels(pictures / f"{name}.svg")
    assert {"MemoryMax", "CPUQuota"} <= found
    if title is not None:
        assert f"j1: {title}" in found


@needs_matplotlib
@pytest.mark.parametrize("name", [*SHORT, "unknown"])
def test_what_is_not_known_leaves_the_limits(pictures: Path, name: str) -> None:
    assert {"MemoryMax", "CPUQuota", "memory (MiB)"} <= labels(pictures / f"{name}.svg")


@needs_matplotlib
def test_no_limits_are_no_lines(pictures: Path) -> None:
    found = labels(pictures / "unlimited.svg")
    assert "memory (MiB)" in found
    assert found & {"MemoryMax", "CPUQuota"} == set()


@needs_matplotlib
@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        ("usage.xyz", "xyz"),
        ("none/usage.svg", "No such file or directory"),
    ],
)
def test_pictures_that_can_not_be_drawn(
    record: Path,
    plot: Callable[..., tuple[int, str]],
    tmp_path: Path,
    picture: str,
    problem: str,
) -> None:
    status, said = plot(record, "-o", tmp_path / picture)
    assert status == 125
    assert said.count("\n") == 1
    assert said.startswith(f"sdbox: {tmp_path / picture}: ")
    assert problem in said
    assert not (tmp_path / picture).exists()


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (None, "No such file or directory"),
        (b"", "line 1 is not what --record writes"),
        (b"\x89PNG\r\n\x1a\n\xff", "line 1 is not what --record writes"),
        (b'{"job": "j1"}\n', "line 1 is not what --record writes"),
    ],
    ids=["none", "empty", "picture", "half"],
)
def test_what_is_no_record(
    plot: Callable[..., tuple[int, str]], tmp_path: Path, contents: bytes | None, problem: str
) -> None:
    path = tmp_path / "record"
    if contents is not None:
        path.write_bytes(contents)
    status, said = plot(path, "-o", tmp_path / "usage.svg")
    assert status == 125
    assert said.count("\n") == 1
    assert said.startswith(f"sdbox: {path}: {problem}")
    assert not (tmp_path / "usage.svg").exists()


def test_without_matplotlib_the_remedy_is_told(record: Path, tmp_path: Path) -> None:
    # Without the module site there is only the standard library, and the checkout.
    words = ("plot", str(record), "-o", str(tmp_path / "usage.svg"))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", WITHOUT_PACKAGES, str(CHECKOUT), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(60),
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "sdbox: matplotlib is not installed. Install it: pip install 'sdbox[plot]'\n"
    )
    assert not (tmp_path / "usage.svg").exists()
