"""Embeddings across speech and text: convert towers, build data sets, train, measure.

`mrl-jax COMMAND --help` explains a command.
"""

import importlib
import sys
from collections.abc import Sequence

import mrl_jax
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.presets import PACKAGE, bundled_folder

COMMANDS = {
    "convert": ("converters.__main__", "Convert, verify and export the weights of towers."),
    "export": (
        "converters.export_command",
        "Export a trained model to PyTorch, ONNX or StableHLO.",
    ),
    "build": ("mrl_jax.data.build.__main__", "Build a data set from a manifest of recordings."),
    "curate": (
        "mrl_jax.curation.command",
        "Make training manifests of raw recordings and texts.",
    ),
    "train": ("mrl_jax.training.command", "Train what a config describes, or resume it."),
    "eval": ("mrl_jax.evaluation.command", "Measure a trained model, or compare several."),
    "rotate": (
        "mrl_jax.evaluation.spectrum.fit_rotation",
        "Fit a rotation that sorts a model's coordinates by their variance.",
    ),
    "embed": (
        "mrl_jax.inference.embed.command",
        "Embed a corpus of texts or recordings into files of vectors.",
    ),
    "index": (
        "mrl_jax.inference.index.index_command",
        "Make an index of documents, add to it, remove from it.",
    ),
    "search": (
        "mrl_jax.inference.index.search_command",
        "Search an index by a question, written or spoken.",
    ),
    "serve": (
        "mrl_jax.serving.command",
        "Serve an index: an HTTP API, and a page to speak into.",
    ),
    "push": (
        "mrl_jax.publishing.command",
        "Upload a trained model to the Hugging Face hub, with its card.",
    ),
    "cascade": (
        "mrl_jax.inference.cascade_command",
        "Check and write a cascade of recogniser, translator and text tower.",
    ),
    "checksum": (
        "mrl_jax.checkpoints.checksum_command",
        "Compare a folder's files with their digests, or write these anew.",
    ),
    "demo": ("mrl_jax.demo.__main__", "Run the offline demo: every step at a small size."),
}
"""Command: the module whose `main(argv)` it is, imported when it is called; and its help."""


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="mrl-jax", description=__doc__)
    version = f"mrl_jax {mrl_jax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    if argv[:1] == ["help"]:
        argv = [*argv[1:2], "--help"]
    command = parser.parse_args(argv[:1]).command  # The rest is the command's own to parse.
    module, _ = COMMANDS[command]
    if module.startswith("converters."):
        module = _converters(module)
    return importlib.import_module(module).main(argv[1:])


def _converters(module: str) -> str:
    """A wheel has `converters` inside the package; a checkout has it at its top level."""
    folder = bundled_folder("converters")
    if folder.parent == PACKAGE:
        return f"mrl_jax.{module}"
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    return module


def run() -> int:
    """The script `mrl-jax`."""
    return run_command(main)


if __name__ == "__main__":
    sys.exit(run())
