"""Where a box keeps what its job writes, and who bounds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.errors import InvalidDirective
from sdbox.init import syscalls
from sdbox.plan.scratch import check, directories, hides, keeper, mounts, on_disk, under

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRATCH = "/scratch/dir_1"
GIB = 1 << 30
NODEV = syscalls.MOUNT_ATTR_NODEV


def places(**directives: object) -> list[tuple[str, str]]:
    return [mount[:2] for mount in mounts(Box(**directives).directives, None)]


def test_a_private_tmp_is_in_the_scratch_directory_where_there_is_one() -> None:
    assert places(PrivateTmp=True) == [("PrivateTmp", "/tmp"), ("PrivateTmp", "/var/tmp")]
    assert places(PrivateTmp=True, ScratchDirectory=SCRATCH) == [
        ("ScratchDirectory", SCRATCH),
        ("MountUnderScratch", "/tmp"),
        ("MountUnderScratch", "/var/tmp"),
    ]
    box = Box(PrivateTmp=True, ScratchDirectory=SCRATCH).directives
    assert directories(box) == (), "nothing is made elsewhere"


def test_what_is_in_the_scratch_directory_is_named_once() -> None:
    box = Box(PrivateTmp=True, ScratchDirectory=SCRATCH, MountUnderScratch=["/data", "/tmp"])
    assert under(box.directives) == ("/data", "/tmp", "/var/tmp")
    assert under(Box(ScratchDirectory=SCRATCH).directives) == ()


@pytest.mark.parametrize(
    ("directives", "size"),
    [
        ({"PrivateTmpSize": "1G"}, GIB),
        ({"PrivateTmpSize": "1G", "PrivateTmp": True}, GIB),
        ({"PrivateTmpSize": "1G", "DiskMax": "2G"}, GIB),
        ({"PrivateTmpSize": "3G", "DiskMax": "2G"}, 2 * GIB),
        ({"PrivateTmp": "disconnected", "DiskMax": "2G"}, 2 * GIB),
        # There, DiskMax is about what is on disk.
        ({"PrivateTmpSize": "3G", "DiskMax": "2G", "ScratchDirectory": SCRATCH}, 3 * GIB),
    ],
)
def test_the_size_of_a_tmp_in_memory(directives: Mapping[str, object], size: int) -> None:
    made = mounts(Box.from_mapping(directives).directives, None)
    sized = [mount for mount in made if mount[0] == "PrivateTmpSize"]
    arguments = {"size": str(size)}
    assert sized == [
        ("PrivateTmpSize", "/tmp", arguments),
        ("PrivateTmpSize", "/var/tmp", arguments),
    ]


@pytest.mark.parametrize(
    ("directives", "kept_by"),
    [
        ({"PrivateTmp": True}, None),
        ({"ScratchDirectory": SCRATCH, "PrivateTmpSize": "1G"}, None),
        ({"RootDirectory": "/r", "RootEphemeral": "/l", "PrivateTmpSize": "1G"}, None),
        ({"PrivateTmpSize": "1G"}, "kernel"),
        ({"PrivateTmp": "disconnected"}, "kernel"),
    ],
)
def test_who_keeps_a_disk_limit(directives: Mapping[str, object], kept_by: str | None) -> None:
    box = Box.from_mapping({"DiskMax": "2G", **directives})
    check(box.directives)
    # A watch, where nobody else does.
    assert keeper(box.directives).get("DiskMax") == kept_by


@pytest.mark.parametrize(
    ("directives", "places"),
    [
        ({"PrivateTmp": True}, ("/tmp", "/var/tmp")),
        ({"PrivateTmp": True, "ScratchDirectory": SCRATCH}, (SCRATCH,)),
        ({"PrivateTmp": "disconnected"}, ()),
        ({"RootDirectory": "/r", "RootEphemeral": "/layers"}, ("/layers",)),
        (
            {"RootDirectory": "/r", "RootEphemeral": "/layers", "ScratchDirectory": SCRATCH},
            (SCRATCH, "/layers"),
        ),
    ],
)
def test_what_is_on_disk_has_one_quota(
    directives: Mapping[str, object], places: tuple[str, ...]
) -> None:
    box = Box.from_mapping({"DiskMax": "1G", **directives}).directives
    assert on_disk(box) == places
    assert keeper(box, quota=True) == {"DiskMax": "quota" if places else "kernel"}


def test_no_limit_is_kept_by_nobody() -> None:
    assert keeper(Box(DiskMax="infinity", PrivateTmp=True).directives, quota=True) == {
        "DiskMax": "kernel"
    }
    assert keeper(Box(DiskMax="infinity", PrivateTmp=True).directives) == {"DiskMax": "kernel"}
    assert keeper(Box(PrivateTmp=True).directives) == {}


@pytest.mark.parametrize(
    ("directives", "message"),
    [
        ({"MountUnderScratch": "/tmp"}, "MountUnderScratch: there is no ScratchDirectory"),
        (
            {"ScratchDirectory": "/s", "MountUnderScratch": "/tmp", "PrivateTmpSize": "1G"},
            "MountUnderScratch: /tmp is to be in memory as well",
        ),
        (
            {"ScratchDirectory": "/s", "MountUnderScratch": "/s/tmp"},
            "MountUnderScratch: /s/tmp is in ScratchDirectory itself",
        ),
        ({"PrivateTmpSize": "1G", "PrivateTmp": False}, "PrivateTmpSize: PrivateTmp is no"),
        ({"DiskMax": "1G"}, "DiskMax: the box has no directory"),
        ({"DiskMax": "1G", "PrivateTmp": False}, "DiskMax: the box has no directory"),
        ({"TemporaryFileSystem": "/tmp", "PrivateTmp": True}, "/tmp: two directives"),
        ({"TemporaryFileSystem": "/var/tmp", "PrivateTmpSize": "1M"}, "/var/tmp: two directives"),
        ({"TemporaryFileSystem": "/a /a:ro"}, "/a: two directives"),
        ({"TemporaryFileSystem": "/dev/shm", "PrivateShm": True}, "/dev/shm: two directives"),
    ],
)
def test_what_does_not_go_together(directives: Mapping[str, object], message: str) -> None:
    with pytest.raises(InvalidDirective) as caught:
        check(Box.from_mapping(directives).directives)
    assert str(caught.value).startswith(message)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("said", "attributes", "read_only", "options"),
    [
        ("", NODEV, False, {}),
        (":ro,dev", 0, True, {}),
        (":ro,rw", NODEV, False, {}),
        (":noexec,nosuid,exec", NODEV | syscalls.MOUNT_ATTR_NOSUID, False, {}),
        (":noatime,strictatime", NODEV | syscalls.MOUNT_ATTR_STRICTATIME, False, {}),
        (":mode=1777,size=1G", NODEV, False, {"mode": "1777", "size": "1G"}),
    ],
)
def test_options_of_a_directory_in_memory(
    said: str, attributes: int, read_only: bool, options: dict[str, str]
) -> None:
    ((kind, place, arguments),) = mounts(Box(TemporaryFileSystem=f"/a{said}").directives, None)
    assert (kind, place) == ("TemporaryFileSystem", "/a")
    usual = {"mode": "0755", "size": "10%", "nr_inodes": "400k"}
    assert arguments == {
        "options": usual | options,
        "attributes": attributes,
        "read_only": read_only,
    }


@pytest.mark.parametrize(
    ("directives", "path", "hidden"),
    [
        ({"PrivateTmpSize": "10%", "DiskMax": "1G"}, "/var/tmp/a", True),
        ({"ScratchDirectory": "/tmp/s", "MountUnderScratch": "/tmp"}, "/tmp/x", True),
        ({"ScratchDirectory": "/tmp/s", "MountUnderScratch": "/tmp"}, "/tmp/s/x", False),
        ({"TemporaryFileSystem": "/home"}, "/home/alice", True),
        ({"MountImages": "/i:/opt"}, "/opt/x", True),
        ({"BindPaths": "/a", "TemporaryFileSystem": "/a/b"}, "/a/b/c", True),
        ({"BindPaths": "/a", "TemporaryFileSystem": "/a"}, "/a/b", False),
        ({"PrivateShm": True}, "/dev/shm", True),
        ({"ScratchDirectory": "/s"}, "/s/x", False),
    ],
)
def test_what_a_box_hides(directives: Mapping[str, object], path: str, hidden: bool) -> None:
    assert hides(Box.from_mapping(directives).directives, path) == hidden
