"""A module of an integration without its library says in one line which extra brings it."""

import subprocess
import sys

MODULES = {
    "mteb": ("mteb", "mteb"),
    "mteb_fleurs": ("datasets", "mteb"),
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "qdrant": ("qdrant_client", "qdrant"),
    "lancedb": ("lancedb", "lancedb"),
}
"""Module: the library that is taken away, and the extra that installs it."""
SCRIPT = """
import importlib, sys
import mrl_jax.integrations
from mrl_jax.core.errors import MrlError

known = {name.partition(".")[0] for name in sys.modules}
assert not known & {*sys.argv[2::2]}, known
for module, library in zip(sys.argv[1::2], sys.argv[2::2]):
    sys.modules[library] = None
    try:
        importlib.import_module(f"mrl_jax.integrations.{module}")
    except MrlError as error:
        print(error)
"""


def test_a_missing_library_is_named_with_its_extra():
    words = [word for module, (library, _) in MODULES.items() for word in (module, library)]
    argv = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(MODULES), done.stdout
    for line, (module, (library, extra)) in zip(lines, MODULES.items(), strict=True):
        assert line.startswith(f"mrl_jax.integrations.{module} takes {library}, which is not")
        assert line.endswith(f"`pip install 'mrl_jax[{extra}]'`")
