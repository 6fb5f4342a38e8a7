from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.values import Bind, Refused, WorkingDirectory, names


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/a/", "/a"),
        ("/a/./b//c/.", "/a/b/c"),
        ("/a b", "/a b"),
        ("/\udcff", "/\udcff"),
        ("/...", "/..."),
        ("/" + "a" * 255, "/" + "a" * 255),
    ],
)
def test_paths_are_simplified(text: str, path: str) -> None:
    assert names.path(text) == path


@pytest.mark.parametrize(
    "text", ["", "a", "./a", "~", "/a/../b", "/..", " /a", "/" + "a" * 256, "/ab" * 1366]
)
def test_what_is_no_absolute_path_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.path(text)


def test_working_directories() -> None:
    assert names.working_directory("/a") == WorkingDirectory(path="/a")
    assert names.working_directory("-/a") == WorkingDirectory(path="/a", missing_ok=True)
    assert names.working_directory("-~") == WorkingDirectory(path="~", missing_ok=True)
    for text in ("", "-", "a", "~a", "--/a"):
        with pytest.raises(Refused):
            names.working_directory(text)


@pytest.mark.parametrize(
    "text", ["root", "nobody", "first.last", "DOM\\user", "_x", "a-b", "user@dom", "0", "1000", "é"]
)
def test_accounts(text: str) -> None:
    assert names.user_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-x",
        "-1",
        "+1",
        "a:b",
        "a/b",
        "a b",
        " a",
        "a\n",
        ".",
        "..",
        "007",
        "65535",
        str(2**32 - 1),
        str(2**32),
        "x" * 257,
        "\udcff",
        "a\x7f",
    ],
)
def test_what_is_no_account_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.user_name(text)


@pytest.mark.parametrize(
    "text", ["a.slice", "-.slice", "a-b.slice", "a-b_c:d.e.slice", r"a\x2db.slice"]
)
def test_slices(text: str) -> None:
    assert names.slice_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".slice",
        "a",
        "a.service",
        "-a.slice",
        "a-.slice",
        "a--b.slice",
        "a b.slice",
        "a/b.slice",
        "a@b.slice",
        "é.slice",
        "a.slice ",
        "x" * 250 + ".slice",
        "--.slice",
    ],
)
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.slice_name(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("TERM", 15),
        ("15", 15),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("SIGRTMIN", int(signal.SIGRTMIN)),
        ("64", 64),
        ("CHLD", 17),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert names.signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-1", "SIG", "term", "TERM+1", "RTMIN+31", "RTMIN+", "RTMIN+x", "_DFL"]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.signal_number(text)


@pytest.mark.parametrize(
    ("number", "name"),
    [(1, "SIGHUP"), (9, "SIGKILL"), (34, "SIGRTMIN"), (37, "SIGRTMIN+3"), (33, "33")],
)
def test_signals_by_name(number: int, name: str) -> None:
    assert names.format_signal(number) == name


@pytest.mark.parametrize("number", range(1, 65))
def test_signals_read_back(number: int) -> None:
    assert names.signal_number(names.format_signal(number)) == number


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "0-8192", "8192", "1-2-3", "1.5"])
def test_what_is_no_cpu_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.cpu_range(text)


def test_cpu_lists() -> None:
    items = names.split_cpus("0-3, 8\t10,9 2-4")
    assert names.union(map(names.cpu_range, items)) == (0, 1, 2, 3, 4, 8, 9, 10)
    assert names.format_cpus((0, 1, 2, 3, 4, 8, 9, 10, 12)) == ["0-4", "8-10", "12"]


@given(st.sets(st.integers(0, 8191)).map(sorted))
def test_cpus_are_a_bit_mask(cpus: list[int]) -> None:
    mask = names.bitmask(cpus)
    assert [i for i in range(len(mask) * 8) if mask[i // 8] & 1 << i % 8] == cpus
    assert not mask or mask[-1]


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a", Bind(source="/a", destination="/a")),
        ("/a:/b", Bind(source="/a", destination="/b")),
        (
            "-/a:/b:norbind",
            Bind(source="/a", destination="/b", ignore_missing=True, recursive=False),
        ),
        ("/a:/b:rbind", Bind(source="/a", destination="/b")),
        (r"/a\:b:/c", Bind(source="/a:b", destination="/c")),
        (r"/a\b", Bind(source="/a\\b", destination="/a\\b")),
        (r"/a\\:/b", Bind(source="/a\\", destination="/b")),
        ("/my dir:/ö,\"'", Bind(source="/my dir", destination="/ö,\"'")),
    ],
)
def test_one_bind(text: str, bind: Bind) -> None:
    assert names.bind(text) == bind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "/a:b",
        "/a:",
        ":/a",
        "/a:/b:",
        "/a:/b:rbind:x",
        "/a:/b:ro",
        "--/a",
        "/a/../b",
        "/a:/",
        "/",
    ],
)
def test_what_is_no_bind_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.bind(text)


@pytest.mark.parametrize(
    ("raw", "pair"),
    [
        ("A=b", ("A", "b")),
        ("A=", ("A", "")),
        ("A==b", ("A", "=b")),
        (("A", 1), ("A", "1")),
        ("BASH_FUNC_module%%=() { :; }", ("BASH_FUNC_module%%", "() { :; }")),
        (b"A=\xff", ("A", "\udcff")),
    ],
)
def test_variables(raw: object, pair: tuple[str, str]) -> None:
    assert names.variable(raw) == pair


@pytest.mark.parametrize(
    "raw",
    ["", "A", "=b", ("", "b"), ("A=", "b"), ("A", True), ("A", None), "A=\0", ("A", "B", "C")],
)
def test_what_is_no_variable_is_refused(raw: object) -> None:
    with pytest.raises(Refused):
        names.variable(raw)


def test_device_rates() -> None:
    assert names.device_rate("/dev/my x 1.5M") == ("/dev/my x", 1_500_000)
    assert names.device_rate(("/dev/sda", 5)) == ("/dev/sda", 5)
    assert names.split_device_rates('"/dev/my x" 1 M\n/b 2') == [("/dev/my x", "1 M"), ("/b", "2")]


@pytest.mark.parametrize("raw", ["", "/a", "a 5M", "/a 0", "/a -1", "/a x", "/\udcff 1", "/\x01 1"])
def test_what_is_no_device_rate_is_refused(raw: str) -> None:
    with pytest.raises(Refused):
        names.device_rate(raw)


@pytest.mark.parametrize("text", ["", " ", "a\nb", "a\tb", "\x1b[0m", "\udcff", "a\u2028b"])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        names.one_line(text)
