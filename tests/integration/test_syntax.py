"""The syntaxes of directives against the systemd that is installed.

systemd reads unit files that hold the texts, without starting anything, and says what it made
of them. What sdbox accepts systemd must accept too, and take for the same value.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sdbox.directives import DIRECTIVES
from sdbox.errors import InvalidDirective
from sdbox.values import INFINITY, Bind, Percent, quantities
from tests.pace import seconds

SYSTEMD = next(
    (p for p in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.access(p, os.X_OK)), ""
)
NOBODY = 65534

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="systemd is not installed")


# A batch takes systemd a second, and one that fails names its case: it needs no shrinking.
one_batch_after_another = settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def made_of(cases: list[tuple[str, str]]) -> list[dict[str, list[str]]]:
    """What systemd shows for a service with one `Name=text` line, for each case.

    `refused` has its complaints.
    """
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - an unprivileged systemd reads it
        _write_units(Path(directory), cases)
        output = _test_run(directory)
    return [_shown(output, f"case{number}.service") for number in range(len(cases))]


def _write_units(directory: Path, cases: list[tuple[str, str]]) -> None:
    start = "[Unit]\nDefaultDependencies=no\n"
    for number, (name, text) in enumerate(cases):
        unit = f"{start}[Service]\nExecStart=/bin/true\n{name}={text.replace('%', '%%')}\n"
        if name in ("MemoryMax", "MemoryHigh", "TasksMax", "CPUQuota"):
            unit = unit.replace("%%", "%")
        (directory / f"case{number}.service").write_text(unit)
    wants = " ".join(f"case{number}.service" for number in range(len(cases)))
    (directory / "all.target").write_text(f"{start}Wants={wants}\n")


def _test_run(directory: str) -> str:
    as_nobody: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        [SYSTEMD, "--test", "--system", "--unit=all.target", "--log-level=info"],
        env={"SYSTEMD_UNIT_PATH": directory, "SYSTEMD_LOG_COLOR": "0"},
        capture_output=True,
        timeout=seconds(60),
        check=True,
        **(as_nobody if os.geteuid() == 0 else {}),
    )
    output: bytes = done.stdout + done.stderr
    return output.decode(errors="surrogateescape")


def _shown(output: str, unit: str) -> dict[str, list[str]]:
    _, *parts = re.split(r"^\s*(?:->|→) (?:Unit|Job) (.*):$", output, flags=re.MULTILINE)
    section = dict(zip(parts[::2], parts[1::2], strict=True))[unit]
    shown: dict[str, list[str]] = {"refused": re.findall(rf"{unit}:\d+: .*", output)}
    for line in section.split("\n"):
        key, colon, value = line.strip("\t").partition(": ")
        if colon:
            shown.setdefault(key, []).append(value)
    return shown


ACCEPTED = [
    ("MemoryMax", "512M"), ("MemoryMax", "1.5G"), ("MemoryMax", "infinity"),
    ("MemoryHigh", "3.5M 3K 2"), ("MemoryHigh", "4.8K"), ("MemorySwapMax", "0"),
    ("TasksMax", "10"), ("TasksMax", "infinity"), ("CPUQuota", "12.34%"), ("CPUQuota", "250%"),
    ("CPUWeight", "10000"), ("AllowedCPUs", "0-2, 5"), ("CPUAffinity", "3-4 1,0"),
    ("RuntimeMaxSec", "1.5h .5m"), ("RuntimeMaxSec", "90"), ("RuntimeMaxSec", "3 weeks2d"),
    ("RuntimeMaxSec", "1y 2month 1M"), ("RuntimeMaxSec", "infinity"),
    ("TimeoutStopSec", "2min 1"), ("LimitCPU", "1500ms"), ("LimitRTTIME", "5:7ms"),
    ("LimitNICE", "+19:-20"), ("LimitNICE", "0:40"), ("LimitNOFILE", "5:infinity"),
    ("LimitAS", "4G:16G"), ("LimitCORE", "0"), ("LimitMSGQUEUE", "1.5K"),
    ("BindPaths", r'/a\:b:/c "/my dir" -/q:/z:norbind /d\n "/p:q" "/s\"x":/t //e/./f/'),
    ("BindReadOnlyPaths", "'/it\\'s':/b:rbind"),
    ("Environment", r"""A="b c" 'D=\x41\tq' E=\u00e9 F=a'b c'd G=$HOME H=\101\s I=1 I=2"""),
    ("Environment", r'"J=\"\\" K= L=100% M=é'),
    ("WorkingDirectory", "/a//b/"), ("User", "first.last"), ("User", "1000"),
    ("Group", "DOM\\x"), ("PrivateTmp", "T"), ("PrivateTmp", "off"), ("Slice", "a-b.slice"),
    ("OOMPolicy", "kill"), ("KillSignal", "INT"),
]  # fmt: skip

REFUSED = [
    ("MemoryMax", "12x"), ("MemoryMax", "1M 1G"), ("MemoryMax", "-1"), ("MemoryMax", "0"),
    ("MemoryMax", "101%"), ("MemoryMax", "1.5.5"), ("TasksMax", "0"), ("TasksMax", "5K"),
    ("CPUQuota", "200"), ("CPUQuota", "-5%"), ("CPUWeight", "0"), ("CPUWeight", "10001"),
    ("RuntimeMaxSec", "1."), ("RuntimeMaxSec", "12.34.56"), ("RuntimeMaxSec", "5ns"),
    ("LimitNICE", "infinity"), ("LimitNICE", "41"), ("LimitNOFILE", "5:3"),
    ("LimitNOFILE", "1:2:3"), ("LimitNOFILE", "5K"), ("BindPaths", "/x/../y"),
    ("BindPaths", "rel"), ("BindPaths", "/a:/b:/c"), ("BindPaths", "/a:"),
    ("Environment", 'A=1 X="u'), ("Environment", r"J=\q"), ("Environment", "="),
    ("WorkingDirectory", "/foo/../bar"), ("WorkingDirectory", "rel"), ("User", "a:b"),
    ("Slice", "a.service"), ("PrivateTmp", "maybe"),
    ("OOMPolicy", "x"), ("KillSignal", "TERMINATE"), ("KillSignal", "65"),
]  # fmt: skip


def test_systemd_takes_the_same_texts_for_the_same_values() -> None:
    for (name, text), shown in zip(ACCEPTED, made_of(ACCEPTED), strict=True):
        assert not complaints(shown), (name, text)
        assert value_of(name, shown) == comparable(name, text), (name, text)


def test_what_systemd_refuses_sdbox_refuses() -> None:
    for (name, text), shown in zip(REFUSED, made_of(REFUSED), strict=True):
        assert complaints(shown), (name, text)
        with pytest.raises(InvalidDirective):
            DIRECTIVES[name].syntax.read(text, name)


def complaints(shown: dict[str, list[str]]) -> list[str]:
    return [line for line in shown["refused"] if "strict user/group name rules" not in line]


def comparable(name: str, text: str) -> Any:
    """The value that sdbox reads from `text`."""
    if name == "WorkingDirectory":  # systemd does not show the dash
        text = text.removeprefix("-")
    value = DIRECTIVES[name].syntax.read(text, name)
    return [_bind_line(bind) for bind in value] if name in BIND_LISTS else value


BIND_LISTS = ("BindPaths", "BindReadOnlyPaths")


def _bind_line(bind: Bind) -> str:
    dash = "-" if bind.ignore_missing else ""
    mode = "rbind" if bind.recursive else "norbind"
    return f"{dash}{bind.source}:{bind.destination}:{mode}"


def value_of(name: str, shown: dict[str, list[str]]) -> Any:
    """The value that systemd shows, in sdbox's types."""
    read = DIRECTIVES[name].syntax.read
    if name in BIND_LISTS:
        return list(dict.fromkeys(shown.get(name, [])))
    if name == "Environment":
        return read(shown.get(name, []), name)
    if name == "CPUQuota":
        per_second = quantities.span(shown["CPUQuotaPerSecSec"][0])
        return Percent(permyriad=per_second // 100)
    if name.startswith("Limit"):
        return read(f"{shown[name + 'Soft'][0]}:{shown[name][0]}".replace(MAX, "infinity"), name)
    return read(shown[name][0].replace(MAX, "infinity"), name)


MAX = str(INFINITY)


def texts(alphabet: str, *words: str) -> st.SearchStrategy[str]:
    """Texts of characters and words of a syntax, right and nearly right."""
    parts = st.lists(st.sampled_from([*alphabet, *words]), min_size=1, max_size=9).map("".join)
    return parts.map(str.strip).filter(_stands_in_a_unit_file)


def _stands_in_a_unit_file(text: str) -> bool:
    # A backslash at the end of a line continues it, and systemd 252 takes two blanks in BindPaths
    # for an empty path, which it complains about and leaves out.
    return bool(text) and not text.endswith("\\") and "  " not in text


NEARLY = st.one_of(
    st.tuples(st.just("MemoryHigh"), texts("0123456789. KMGB%", "infinity", "1.5")),
    st.tuples(st.just("TasksMax"), texts("0123456789 ", "infinity")),
    st.tuples(st.just("AllowedCPUs"), texts("01234567, -", "1-3")),
    st.tuples(st.just("LimitAS"), texts("0123456789:.KM", "infinity", "1K:2K")),
    st.tuples(st.just("LimitNICE"), texts("0123456789:+-", "+5:-5")),
    st.tuples(st.just("BindPaths"), texts("/ab:\\ '\"-.", "/a:", "/b", ":norbind", "\\:", "/a ")),
    st.tuples(st.just("Environment"), texts("A=b \\'\"tx0s$%é", "A=", "B=c ", "\\x41", "\\101")),
    st.tuples(st.just("WorkingDirectory"), texts("/ab.- ", "/a")),
    st.tuples(st.just("User"), texts("ab01._-@ :/\\")),
    st.tuples(st.just("Slice"), texts("ab-_.@", ".slice", "a-b")),
)


@one_batch_after_another
@given(st.lists(NEARLY, min_size=50, max_size=150))
def test_what_sdbox_accepts_systemd_takes_for_the_same(cases: list[tuple[str, str]]) -> None:
    accepted = [case for case in cases if _accepts(*case) and not _has_odd_name(*case)]
    for (name, text), shown in zip(accepted, made_of(accepted), strict=True):
        assert not complaints(shown), (name, text)
        if name not in SHARES or "%" not in text:
            assert value_of(name, shown) == comparable(name, text), (name, text)


# Shown as what they are of this machine.
SHARES = ("MemoryMax", "MemoryHigh", "TasksMax")


def _accepts(name: str, text: str) -> bool:
    try:
        DIRECTIVES[name].syntax.read(text, name)
    except InvalidDirective:
        return False
    return True


def _has_odd_name(name: str, text: str) -> bool:
    """Whether it sets a variable whose name systemd refuses: sdbox takes what execve(2) does."""
    if name != "Environment":
        return False
    variables = DIRECTIVES[name].syntax.read(text, name)
    return not all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable) for variable, _ in variables)


SPANS = texts("0123456789. ", "us", "ms", "s", "min", "h", "d", "w", "month", "M", "m", "y", "1.5")


@one_batch_after_another
@given(st.lists(SPANS, min_size=50, max_size=150))
def test_what_sdbox_takes_for_a_span_systemd_takes_for_the_same(spans: list[str]) -> None:
    accepted = [text for text in spans if _accepts("RuntimeMaxSec", text)]
    done = subprocess.run(
        ["systemd-analyze", "timespan", "--", "0", *accepted],
        capture_output=True,
        timeout=seconds(60),
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    shown = re.findall(r"^\s*[μu]s: (\d+)$", done.stdout.decode(), flags=re.MULTILINE)
    assert [int(usec) for usec in shown[1:]] == [quantities.span(text) for text in accepted]
