"""The one error a user causes, and how it is put into words.

Every check of user input, in any room, raises `InputError`; the command line prints it on stderr and exits with 2.
It says where (a file, a place inside it), what was found and what is allowed; nothing else in the project formats
such messages.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, described for the person who gave it.

    Parameters
    ----------
    problem : what is wrong, one sentence without a final full stop.
    file : the file it is in, or the option it came from (`--set`).
    place : the path inside the file, such as `engine.block_size` or `row 12, column output_len`.
    line : line number in `file`, counted from 1.
    found : the offending value, as the user wrote it.
    allowed : what would have been accepted.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        place: str | None = None,
        line: int | None = None,
        found: object = None,
        allowed: str | None = None,
    ) -> None:
        self.problem, self.file, self.place = problem, file, place
        self.line, self.found, self.allowed = line, found, allowed
        super().__init__(self.message())

    def message(self) -> str:
        where = str(self.file) if self.file is not None else ""
        if self.line is not None:
            where += f":{self.line}"
        if self.place:
            where += f": {self.place}" if where else self.place
        text = f"{where}: {self.problem}" if where else self.problem
        if self.found is not None:
            shown = repr(self.found)
            text += f"; found {shown if len(shown) <= 200 else shown[:197] + '...'}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return text

    def at(self, file: object = None, place: str | None = None, line: int | None = None) -> InputError:
        """The same error with the location filled in where it was still unknown."""
        return InputError(
            self.problem,
            file=self.file if self.file is not None else file,
            place=self.place if self.place is not None else place,
            line=self.line if self.line is not None else line,
            found=self.found,
            allowed=self.allowed,
        )


def near_matches(name: str, known: Iterable[str]) -> str:
    """`did you mean ...? known: ...`: for the `allowed` part of an error about a name."""
    names = sorted(known)
    folded = {n.lower(): n for n in names}
    wanted = str(name).lower()
    close = [n for n in names if wanted and wanted in n.lower()]  # `h200` means `h200-sxm` rather than `h20`
    close = sorted(close, key=lambda n: not n.lower().startswith(wanted))[:3]
    alike = difflib.get_close_matches(wanted, list(folded), n=3, cutoff=0.5)
    close += [folded[m] for m in alike if folded[m] not in close]
    text = ", ".join(names) if names else "(none)"
    return f"{text} (did you mean {' or '.join(close[:3])}?)" if close else text
