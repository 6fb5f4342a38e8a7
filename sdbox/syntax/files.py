"""The syntaxes of directives about its files."""

from __future__ import annotations

from sdbox.syntax import TEXT, ListSyntax, Syntax, list_schema
from sdbox.values import as_text, filesystems, names, quoting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


EPHEMERAL = Syntax(
    word="tmpfs|DIR",
    noun="a place for what is written",
    hint="Give yes for memory, an absolute path for a directory, or no",
    parse=names.ephemeral,
    schema={"type": ["boolean", "string"]},
)

PATH = Syntax(
    word="DIR",
    noun="a path",
    hint="Give an absolute path",
    parse=names.path,
    schema=TEXT | {"pattern": "^/"},
)

ROOT = Syntax(
    word="NAME|DIR",
    noun="a root's name or a path",
    hint="Give an absolute path, or a name that `sdbox roots` lists",
    parse=names.root,
    schema=TEXT,
)

BINDS = ListSyntax(
    word="SRC[:DST]",
    noun="a bind mount",
    hint=r"Give SRC or SRC:DST, absolute paths, with \: for a colon in a path",
    split=names.split_binds,
    item=names.bind,
    fold=names.each_once,
    unfold=lambda binds: map(str, binds),
    join=lambda items: " ".join(map(quoting.escape_blanks, items)),
    schema=list_schema({"type": "string"}),
)


def _mounts(word: str, noun: str, hint: str, item: Callable[[Any], Any]) -> ListSyntax:
    return ListSyntax(
        word=word,
        noun=noun,
        hint=hint,
        split=names.split_binds,
        item=item,
        fold=names.each_once,
        unfold=lambda mounts: map(str, mounts),
        join=lambda items: " ".join(map(quoting.escape_blanks, items)),
        schema=list_schema({"type": "string"}),
    )


TMPFS = _mounts(
    "PATH[:OPTIONS]",
    "a file system in memory",
    "Give PATH or PATH:OPTIONS, as in /scratch:size=1G,mode=1777",
    filesystems.tmpfs,
)

IMAGES = _mounts(
    "IMAGE:DST",
    "an image to be mounted",
    r"Give IMAGE:DST, absolute paths, with \: for a colon in a path",
    filesystems.image,
)

PATHS = ListSyntax(
    word="DIR,…",
    noun="a path",
    hint="Give absolute paths",
    split=lambda text: quoting.split_words(text, quoting.literal_escape),
    item=lambda raw: names.below_root(as_text(raw)),
    fold=names.each_once,
    unfold=iter,
    join=lambda items: " ".join(map(quoting.quote_literal, items)),
    schema=list_schema({"type": "string"}),
)

PROTECT_SYSTEM = Syntax(
    word="MODE",
    noun="a kind of protection",
    hint="Give yes (programs), full (and /etc), strict (all) or no",
    parse=names.word_or_switch("full", "strict"),
    schema={"type": ["boolean", "string"]},
)

PROTECT_HOME = Syntax(
    word="MODE",
    noun="a kind of protection",
    hint="Give yes (inaccessible), read-only, tmpfs (empty) or no",
    parse=names.word_or_switch("read-only", "tmpfs"),
    schema={"type": ["boolean", "string"]},
)

ACCESS_PATHS = ListSyntax(
    word="PATH",
    noun="a path",
    hint="Give absolute paths, with - in front of one that may be missing",
    split=names.split_paths,
    item=names.access_path,
    fold=names.each_once,
    unfold=lambda value: value,
    join=lambda items: " ".join(map(quoting.quote_literal, items)),
    schema=list_schema({"type": "string"}),
)
