"""JSON descriptions edited by hand."""

import json
from pathlib import Path
from typing import Any


def unsealed(path: Path, **changes: Any) -> str:
    """A description's text with some fields changed, and without the digest of itself.

    That is how descriptions were written before they had digests.
    """
    raw = {**json.loads(path.read_text()), **changes}
    raw.pop("sha256", None)
    return json.dumps(raw)
