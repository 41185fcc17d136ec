"""What a mistyped name was meant to be."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """A hint for an `MrlError`: the known name nearest to `name`; else `otherwise`, or all."""
    names = {one.lstrip("-"): one for one in known}  # Dashes alone make no option alike.
    close = difflib.get_close_matches(name.lstrip("-"), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]}?"
    if otherwise is not None:
        return otherwise
    return f"expected one of {', '.join(names.values())}" if names else "check the name"
