"""Where the checkout is, and the recordings that may lie beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent
SHARED_DATA = ROOT.parent / "shared" / "data"
