from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.config import load
from sdbox.errors import InvalidConfiguration

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = """
[defaults]
PrivateTmp = true
[box.small]
MemoryMax = "512M"
CPUAffinity = [0, 1]
RuntimeMaxSec = 1.5
Environment = { OMP_NUM_THREADS = "1" }
[box."with space"]
BindPaths = ["", "/my dir:/data"]
[roots]
el7 = "/srv/roots//el7/"
"deb12.5" = "/srv/roots/deb"
"""


def written(directory: Path, contents: str | bytes) -> str:
    path = directory / "sdbox.toml"
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return str(path)


def test_defaults_and_boxes(tmp_path: Path) -> None:
    configuration = load(written(tmp_path, EXAMPLE))
    assert configuration.defaults == Box(PrivateTmp=True)
    assert configuration.box("small") == Box(
        MemoryMax="512M", CPUAffinity="0-1", RuntimeMaxSec=1.5, Environment="OMP_NUM_THREADS=1"
    )
    assert configuration.box("with space") == Box(BindPaths=["", "/my dir:/data"])


def test_roots(tmp_path: Path) -> None:
    roots = load(written(tmp_path, EXAMPLE)).roots
    assert roots == {"el7": "/srv/roots/el7", "deb12.5": "/srv/roots/deb"}


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    configuration = load(written(tmp_path, ""))
    assert configuration.defaults == Box()
    assert configuration.boxes == {}
    assert configuration.roots == {}


def test_only_the_default_file_may_be_missing(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    assert load(default=missing).defaults == Box()
    with pytest.raises(InvalidConfiguration, match=r"missing\.toml: no such file"):
        load(missing)


def test_the_default_file_is_read_where_it_is_there(tmp_path: Path) -> None:
    assert load(default=written(tmp_path, EXAMPLE)).defaults == Box(PrivateTmp=True)


def test_an_unknown_box_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="'big': no such box in ") as caught:
        load(written(tmp_path, EXAMPLE)).box("big")
    assert caught.value.hint == "There are: small, with space"
    with pytest.raises(InvalidConfiguration) as caught:
        load(written(tmp_path, "")).box("big")
    assert "[box.big]" in caught.value.hint


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('[box.small]\nMemoryMax = "12x"', '[box.small] MemoryMax: "12x" is not a size'),
        ("[defaults]\nMemoryMx = 1", "[defaults] MemoryMx: no such directive"),
        ("[default]\nMemoryMax = 1", "'default': no such table"),
        ("PrivateTmp = true", "'PrivateTmp': no such table"),
        ("box = 5", "box is not a table"),
        ("[box]\nsmall = 5", "box.small is not a table"),
        ("roots = []", "roots is not a table"),
        ('[roots]\nel7 = "el7"', "[roots] el7: is not an absolute path"),
        ('[roots]\nel7 = "/srv/../el7"', "[roots] el7: "),
        ('[roots]\n"a/b" = "/srv"', "[roots] a/b: is not a root's name"),
        ('[roots]\n".." = "/srv"', "[roots] ..: is not a root's name"),
        ("[roots]\nel7 = 5", "[roots] el7: is not an absolute path"),
        ("[roots]\nel7.9 = '/srv'", "[roots] el7: is not a root's name"),
        ("defaults = []", "defaults is not a table"),
        ("[box.small]\nMemoryMax = 1979-05-27", "[box.small] MemoryMax: "),
        ("[box.small]\nMemoryMax = [1]", "[box.small] MemoryMax: [1] is not a size"),
        ("[box.small]\nCPUAffinity = [[1]]", "[box.small] CPUAffinity: [1] is not a CPU"),
        ("[box.small]\nEnvironment = { A = true }", "boolean"),
        ("[box.small", "not TOML: "),
        ("a = 1\na = 2", "not TOML: "),
        (b"\xff", "not TOML: "),
        ("a = " + "[" * 100_000, "not TOML: "),
    ],
    ids=range(22),
)
def test_a_mistake_is_one_line_with_file_and_key(
    tmp_path: Path, contents: str | bytes, message: str
) -> None:
    path = written(tmp_path, contents)
    with pytest.raises(InvalidConfiguration) as caught:
        load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert message in line
    assert caught.value.hint
    assert "\n" not in line


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="Is a directory"):
        load(str(tmp_path))
