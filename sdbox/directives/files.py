"""Directives about where its files are."""

from __future__ import annotations

from sdbox.directives import raw
from sdbox.directives.row import Directive, Option
from sdbox.syntax import files as syntax

_SECTION = "Files"
_BINDS = ("BindPaths", "BindReadOnlyPaths")


TABLE = (
    Directive(
        name="RootDirectory",
        syntax=syntax.ROOT,
        section=_SECTION,
        help="the directory that becomes its /, or its name in the configuration",
        option=Option(flag="--root"),
    ),
    Directive(
        name="RootEphemeral",
        syntax=syntax.EPHEMERAL,
        section=_SECTION,
        help="whether what it writes to RootDirectory goes to a layer above, and with the job",
        option=Option(flag="--root-overlay", to_value=raw.overlay),
    ),
    Directive(
        name="ScratchDirectory",
        syntax=syntax.PATH,
        section=_SECTION,
        help="a directory of the job's own, made and removed by who starts it",
        option=Option(flag="--scratch"),
    ),
    Directive(
        name="MountUnderScratch",
        syntax=syntax.PATHS,
        section=_SECTION,
        help="directories that are in ScratchDirectory: /tmp is its tmp",
        option=Option(flag="--mount-under-scratch", to_value=raw.only_paths),
        resets=("MountUnderScratch",),
    ),
    Directive(
        name="TemporaryFileSystem",
        syntax=syntax.TMPFS,
        section=_SECTION,
        help="an empty directory in memory there; mode=0755,size=10%,nodev if not said",
        option=Option(flag="--tmpfs", repeats=True, to_value=raw.one_item),
        resets=("TemporaryFileSystem",),
    ),
    Directive(
        name="MountImages",
        syntax=syntax.IMAGES,
        section=_SECTION,
        help="a squashfs or ext4 image that only root can change, mounted read-only at DST",
        option=Option(flag="--image", repeats=True, to_value=raw.one_item),
        resets=("MountImages",),
    ),
    Directive(
        name="BindPaths",
        syntax=syntax.BINDS,
        section=_SECTION,
        help="a file or directory to be seen at DST as well",
        option=Option(flag="--bind", repeats=True, to_value=raw.one_item),
        resets=_BINDS,
    ),
    Directive(
        name="BindReadOnlyPaths",
        syntax=syntax.BINDS,
        section=_SECTION,
        help="the same, and it can't be written to there",
        option=Option(flag="--bind-ro", repeats=True, to_value=raw.one_item),
        resets=_BINDS,
    ),
    Directive(
        name="ProtectSystem",
        syntax=syntax.PROTECT_SYSTEM,
        section=_SECTION,
        help="what it can't write to: programs, with full /etc as well, with strict everything",
        option=Option(flag="--protect-system"),
    ),
    Directive(
        name="ProtectHome",
        syntax=syntax.PROTECT_HOME,
        section=_SECTION,
        help="whether /home, /root and /run/user are inaccessible, read-only or empty (tmpfs)",
        option=Option(flag="--protect-home"),
    ),
    *(
        Directive(
            name=name,
            syntax=syntax.ACCESS_PATHS,
            section=_SECTION,
            help=what,
            option=Option(flag=flag, repeats=True, to_value=raw.one_item),
            resets=(name,),
        )
        for name, flag, what in (
            ("ReadWritePaths", "--read-write", "what it can write to below what it can't"),
            ("ReadOnlyPaths", "--read-only", "what it can't write to, with all below"),
            ("InaccessiblePaths", "--inaccessible", "files and directories that it can't see into"),
        )
    ),
)
