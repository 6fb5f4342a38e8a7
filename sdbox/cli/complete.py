"""`sdbox complete`: what a shell's completion asks for. Not for people, and so not in the help.

sdbox complete INDEX WORD...    prints what can stand for the word at INDEX, a line each; nothing
                                where that is for the shell to know, as files and programs are.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import TYPE_CHECKING, Any

from sdbox.cli.parser import VERBS, parser_for
from sdbox.errors import SdboxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `complete` to the command line."""
    parser = verbs.add_parser("complete")
    parser.set_defaults(run=run)
    parser.add_argument("index", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)


def run(arguments: argparse.Namespace) -> int:
    """Print, and return the exit status: 1 where files are wanted instead."""
    # Whatever is wrong here is no reason to write on the line that somebody is typing.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with contextlib.suppress(SdboxError):
        found = candidates(arguments.words[1:], arguments.index - 1)
        if found is not None:
            print("\n".join(sorted(found)))
            return 0
    return 1


def candidates(words: Sequence[str], index: int) -> list[str] | None:
    """Return what can stand for the word at `index` after `sdbox`; None for the shell to know."""
    typed = words[index] if index < len(words) else ""
    if index == 0:
        return _beginning(typed, (*VISIBLE, "--help", "--version"))
    parser = _verb(words[0])
    if parser is None:
        return []
    return _of_verb(parser, words[1:index], typed)


VISIBLE = tuple(verb for verb in VERBS if verb != "complete")


def _beginning(typed: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(typed)]


def _verb(word: str) -> argparse.ArgumentParser | None:
    if word not in VERBS:
        return None
    return _verbs_of(parser_for([word]))[word]


def _verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _of_verb(
    parser: argparse.ArgumentParser, before: Sequence[str], typed: str
) -> list[str] | None:
    if "--" in before:
        return None
    verbs = _verbs_of(parser)
    if verbs:
        used = next((n for n, word in enumerate(before) if word in verbs), None)
        if used is not None:
            return _of_verb(verbs[before[used]], before[used + 1 :], typed)
        return _beginning(typed, (*verbs, *_options(parser)))
    expects = _option_before(parser, before)
    if expects is not None:
        return _values(expects, typed)
    if typed.startswith("-"):
        return _beginning(typed, _options(parser))
    return _positional(parser, before, typed)


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [
        text
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for text in action.option_strings
    ]


def _option_before(
    parser: argparse.ArgumentParser, before: Sequence[str]
) -> argparse.Action | None:
    """Return the option that the word is the value of."""
    for action in parser._actions:
        if before and before[-1] in action.option_strings and action.nargs != 0:
            return action
    return None


def _values(action: argparse.Action, typed: str) -> list[str] | None:
    if action.choices is not None:
        return _beginning(typed, map(str, action.choices))
    if "--property" in action.option_strings:
        from sdbox.directives import DIRECTIVES

        return _beginning(typed, (f"{name}=" for name in DIRECTIVES))
    if "--signal" in action.option_strings:
        import signal

        return _beginning(typed, (one.name.removeprefix("SIG") for one in signal.Signals))
    # A number, a file, a name that only its maker knows.
    return None


def _positional(
    parser: argparse.ArgumentParser, before: Sequence[str], typed: str
) -> list[str] | None:
    names = [action.dest for action in parser._actions if not action.option_strings]
    if "assignments" in names and _arguments(parser, before):
        from sdbox.management.change import changeable

        return _beginning(typed, (f"{name}=" for name in changeable()))
    if "jobs" in names:
        return _beginning(typed, _jobs(typed, before))
    return None


def _arguments(parser: argparse.ArgumentParser, before: Sequence[str]) -> list[str]:
    """Return the words that are neither options nor their values."""
    return [
        word
        for n, word in enumerate(before)
        if not word.startswith("-") and _option_before(parser, before[:n]) is None
    ]


def _jobs(typed: str, before: Sequence[str]) -> Iterator[str]:
    """Ids of the jobs there are, but for those named already; units where one is begun."""
    from sdbox.management import groups
    from sdbox.systemd.endpoint import find

    endpoint = find("auto")
    if endpoint is None:
        return
    for place in groups.places(endpoint.cgroup_root):
        as_unit = typed.startswith(groups.PREFIX)
        name = place.unit if as_unit else groups.job_of(place.unit)
        if name not in before:
            yield name
