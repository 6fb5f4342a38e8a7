"""What of the file system a box may not write to or see: what init is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdbox.box import Box
from sdbox.config import Configuration
from sdbox.errors import InvalidConfiguration, InvalidDirective
from sdbox.host import sockets
from sdbox.plan.protection import ENGINES, MANAGERS, OF_ROOT, covers, entries, hides_home

HERE = (*MANAGERS, ENGINES[0])


def made(box: Box, *writable: str) -> list[tuple[str, str, bool]]:
    return entries(box.directives, (), (), writable)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(), []),
        (Box(ProtectSystem="no", ProtectHome="no", ProtectControlGroups="no"), []),
        (
            Box(ProtectSystem=True),
            [
                ("read-only", "/usr", False),
                ("read-only", "/boot", True),
                ("read-only", "/efi", True),
            ],
        ),
        (
            Box(ProtectHome=True),
            [("hide", "/home", True), ("hide", "/root", True), ("hide", "/run/user", True)],
        ),
        (Box(ProtectHome="tmpfs"), []),
        (Box(ProtectControlGroups=True), [("read-only", "/sys/fs/cgroup", True)]),
        (
            Box(InaccessiblePaths="/a -/b", ReadOnlyPaths="/c", ReadWritePaths="/c/d"),
            [
                ("hide", "/a", False),
                ("hide", "/b", True),
                ("read-only", "/c", False),
                ("read-write", "/c/d", False),
            ],
        ),
        # What is below what nobody sees into is nothing to be read-only.
        (Box(InaccessiblePaths="/a", ReadOnlyPaths="-/a/b"), [("hide", "/a", False)]),
        (
            Box(RootDirectory="/srv/r", InaccessiblePaths="/srv/r/a +/b"),
            [("hide", "/a", False), ("hide", "/b", False)],
        ),
        (
            Box(RootDirectory="/srv/r", ReadOnlyPaths="/srv/r"),
            [("read-only", "/", False)],
        ),
    ],
    ids=repr,
)
def test_what_is_protected(box: Box, expected: list[tuple[str, str, bool]]) -> None:
    assert made(box) == expected


def test_its_own_mounts_are_left_as_they_are() -> None:
    assert made(Box(ReadOnlyPaths="/"), "/mine") == [
        ("read-only", "/", False),
        ("leave", "/mine", True),
    ]
    assert made(Box(InaccessiblePaths="/a"), "/mine") == [("hide", "/a", False)]


@pytest.mark.parametrize(
    "box",
    [
        Box(InaccessiblePaths="/a", ReadWritePaths="/a/b"),
        Box(RootDirectory="/srv/r", ReadOnlyPaths="/etc"),
        Box(RootDirectory="/srv/r", ReadOnlyPaths="/srv/r2"),
    ],
    ids=repr,
)
def test_what_can_not_be_is_refused(box: Box) -> None:
    with pytest.raises(InvalidDirective):
        made(box)


@pytest.mark.parametrize("place", ["/home/me/job", "/root", "/a", "/a/b"])
def test_what_would_be_hidden_is_refused(place: str) -> None:
    box = Box(ProtectHome=True, InaccessiblePaths="/a")
    with pytest.raises(InvalidDirective, match=f"{place} is inaccessible to the box, and to be"):
        entries(box.directives, (), ["/b", place], ())
    assert entries(box.directives, (), ["/", "/b"], ()) == made(box)


def test_managers_are_covered_unless_asked_for() -> None:
    hidden = Box().directives
    assert list(covers(hidden, HERE)) == list(MANAGERS)
    assert list(covers(hidden, ())) == []
    assert ("hide", ENGINES[0], True) in entries(hidden, HERE, (), ())
    # A root directory has a /run of its own.
    for box in (Box(ManagerAccess=True), Box(RootDirectory="/srv")):
        assert not [*covers(box.directives, HERE), *entries(box.directives, HERE, (), ())]


def test_an_engine_that_is_bound_is_seen() -> None:
    box = Box().directives
    hidden = {path for mode, path, _ in entries(box, HERE, [ENGINES[0]], ()) if mode == "hide"}
    assert hidden == set(HERE) - set(MANAGERS) - {ENGINES[0]}
    with pytest.raises(InvalidDirective, match="inaccessible"):
        entries(box, HERE, [f"{ENGINES[0]}/below"], ())


@pytest.mark.parametrize(
    "path",
    [
        "/var/snap/lxd/common/lxd/unix.socket",
        "/var/snap/lxd/common/lxd-user/unix.socket",
        "/var/snap/microk8s/common/run/containerd.sock",
        "/run/k0s/containerd.sock",
    ],
)
def test_engines_are_hidden_as_whole_directories(path: str) -> None:
    hidden = {
        place for mode, place, _ in entries(Box().directives, ENGINES, (), ()) if mode == "hide"
    }
    assert hidden.intersection(map(str, Path(path).parents))


@pytest.mark.parametrize("path", ["/run/cups/cups.sock", "/run/wpa_supplicant/wlan0"])
def test_what_serves_root_alone_is_hidden_as_a_whole_directory(path: str) -> None:
    assert set(OF_ROOT).intersection(map(str, Path(path).parents))
    assert not set(ENGINES).intersection(map(str, Path(path).parents))


@pytest.mark.parametrize(
    ("box", "path", "hidden"),
    [
        (Box(), "/root", False),
        (Box(ProtectHome="read-only"), "/root", False),
        (Box(ProtectHome="yes"), "/root/x", True),
        (Box(ProtectHome="tmpfs"), "/home", True),
        (Box(ProtectHome="yes"), "/rooted", False),
    ],
    ids=repr,
)
def test_where_there_is_no_home(box: Box, path: str, hidden: bool) -> None:
    assert hides_home(box.directives, path) == hidden


def test_there_is_a_strict_box_without_any_configuration() -> None:
    empty = Configuration(path="/x", defaults=Box(), boxes={}, roots={})
    strict = empty.box("strict").directives
    assert strict["ProtectSystem"] == "strict"
    assert strict["CapabilityBoundingSet"] == ("none",)
    own = Configuration(path="/x", defaults=Box(), boxes={"strict": Box()}, roots={})
    assert own.box("strict") == Box()
    with pytest.raises(InvalidConfiguration):
        empty.box("stricter")


def test_what_is_hidden_already_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine, hidden = tmp_path / "engine", tmp_path / "hidden"
    engine.touch(0o660)
    hidden.touch()
    hidden.chmod(0)
    user = tmp_path / "user"
    places = (str(engine), str(hidden), str(tmp_path / "missing"))
    monkeypatch.setattr(sockets, "ENGINES", places)
    monkeypatch.setattr(sockets, "_SIGNS", dict.fromkeys(MANAGERS, ()))
    assert str(engine) in sockets.managers(all_of_them=False)
    assert not {str(hidden), str(tmp_path / "missing")} & set(sockets.managers(all_of_them=False))
    assert not sockets._has_entries(str(user))
    user.mkdir()
    assert not sockets._has_entries(str(user))
    (user / "0").mkdir()
    assert sockets._has_entries(str(user))
