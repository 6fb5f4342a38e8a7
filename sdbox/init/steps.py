"""The name of the step that failed, kept with its error on the way to the supervisor."""

from __future__ import annotations

from types import TracebackType


class StepError(Exception):
    """A step of setting up a box failed: its name, the path if one is to blame, the errno."""

    def __init__(self, name: str, path: str, number: int) -> None:
        super().__init__(name, path, number)
        self.name = name
        self.path = path
        self.number = number


class step:  # noqa: N801 - reads as a statement; contextlib would double what init imports
    """Context in which an OSError becomes the StepError of that name."""

    def __init__(self, name: str, path: str = "") -> None:
        self.name = name
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            path = error.filename if isinstance(error.filename, str) else self.path
            raise StepError(self.name, path, error.errno or 0) from error
