"""Optional packages: which extra of `mrl_jax` brings one."""

from mrl_jax.core.errors import MrlError

EXTRAS = {
    "array_record": "train",
    "ctranslate2": "cascade",
    "espeakng_loader": "demo",
    "faiss": "bench",
    "grain": "train",
    "jinja2": "train",
    "jiwer": "train",
    "librosa": "audio",
    "matplotlib": "train",
    "pyarrow": "train",
    "sklearn": "train",
    "soundfile": "audio",
    "soxr": "demo",
    "tensorboardX": "train",
    "tensorflow_datasets": "train",
    "tokenizers": "text",
    "torch": "bin",
    "transformers": "text",
}
"""Import name: the smallest extra that installs it."""


def missing_package(error: ImportError, *, where: object = None) -> MrlError | None:
    """The error of an import as one that names the extra; None where no extra has the module."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    hint = f"install the extra: `pip install 'mrl_jax[{EXTRAS[module]}]'`"
    return MrlError(f"this takes {module}, which is not installed", where=where, hint=hint)
