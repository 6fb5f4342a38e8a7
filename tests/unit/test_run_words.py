"""`sdbox run` reads its words with only the options that are among them: with the same outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdbox.cli.parser import parser_for
from sdbox.cli.run import parse
from sdbox.directives import OPTIONS

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

RIGHT = (
    ["--", "true"],
    ["true", "--memory", "1G"],
    ["--memory", "1G", "--", "true"],
    ["--memory=1G", "--memory=2G", "--tasks", "5", "true"],
    ["--env", "A=--memory", "--env=B=--tasks=4", "--", "env"],
    ["-p", "MemoryMax=1G", "-pTasksMax=4", "--private-tmp", "--detach", "--", "sh", "-c", "exit"],
    ["--", "--memory", "1G"],
    ["--box", "strict", "--id=a", "--report", "--", "true"],
)
WRONG = (
    ["--memory"],
    ["--memory", "--tasks", "4"],
    ["--memor", "1G", "true"],
    ["--memory-", "1G", "true"],
    ["--private-tmp=yes", "true"],
    ["--nonsense", "--memory=4", "true"],
    ["-x", "true"],
    ["--id"],
)


@pytest.mark.parametrize("words", [*RIGHT, *WRONG], ids=" ".join)
def test_the_outcome_is_that_of_all_options(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert outcome(words, capfd) == whole(words, capfd)


@pytest.mark.parametrize("words", RIGHT[:4], ids=" ".join)
def test_words_that_are_right_are_read(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert "command" in outcome(words, capfd)[0]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_words_that_are_wrong_are_refused(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    values, printed = outcome(words, capfd)
    assert values == {"left with": 2}
    assert printed


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["--memory=1G", "-hpTasksMax=4"]], ids=" ".join
)
def test_help_has_every_option(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    values, printed = outcome(words, capfd)
    assert values == {"left with": 0}
    assert {flag for flag in OPTIONS if flag not in printed} == set()


def outcome(words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    return read_by(parse, words, capfd)


def whole(words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    return read_by(lambda words: parser_for(["run"]).parse_args(["run", *words]), words, capfd)


def read_by(
    parse: Callable[[list[str]], Namespace], words: list[str], capfd: pytest.CaptureFixture[str]
) -> tuple[dict[str, object], str]:
    try:
        # An option that is not said has no value.
        values = {name: value for name, value in vars(parse(words)).items() if value is not None}
    except SystemExit as leaving:
        values = {"left with": leaving.code}
    return values, "".join(capfd.readouterr())
