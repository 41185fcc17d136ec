"""Write a trained model as a folder that sentence-transformers loads, for speech and text."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from mrl_jax.core.files import check_apart, staged_folder, write_json

from .export import PublishedTensors, tower_tensors, write_published
from .families import family_of
from .portable_parts import SETTINGS, Portable, torch_parts
from .published_folder import SHARD_BYTES

MODULE_FILES = (
    "torch_modeling.py",
    "torch_model.py",
    "torch_speech.py",
    "torch_text.py",
    "torch_heads.py",
)
"""The model in PyTorch, the file first that `modules.json` names."""
HEAD = "head.safetensors"
FORM = "sentence-transformers"


def export_sentence_transformers(
    portable: Portable, out: Path, *, overwrite: bool = False
) -> list[str]:
    """Write the folder.

    Args:
        portable: the model.
        out: the folder to make.
        overwrite: replace `out` if it exists.

    Returns:
        Names of what holds weights.

    Raises:
        MrlError: a head without a PyTorch form; a damaged tower; `out` cannot be written.
    """
    check_apart(portable.folder, out)
    towers = published_towers(portable)
    size = sum(tensors.size for tensors in towers.values())
    with staged_folder(out, marker=SETTINGS, overwrite=overwrite, needs_bytes=size) as staging:
        write_torch_folder(staging, portable, towers)
    return [*towers, HEAD]


def published_towers(portable: Portable) -> dict[str, PublishedTensors]:
    """The tensors of both towers under the names that transformers' own classes read."""
    towers = {}
    for name, info in portable.towers.items():
        naming = {"prefix": family_of(info.kind).table.prefix, "tied_output": False}
        towers[name] = tower_tensors(portable.place(name), info, naming=naming)
    return towers


def write_torch_folder(
    folder: Path, portable: Portable, towers: dict[str, PublishedTensors]
) -> None:
    """Write towers, head, settings, module files and what names them into a staged folder."""
    tensors, settings = torch_parts(portable)
    for name, info in portable.towers.items():
        (folder / name).mkdir()
        write_published(folder / name, portable.place(name), info, towers[name], SHARD_BYTES)
    save_file(tensors, folder / HEAD, metadata={"format": "pt"})
    for name in MODULE_FILES:
        shutil.copyfile(Path(__file__).parent / name, folder / name)
    write_json(folder / SETTINGS, portable.settings(FORM) | settings)
    module = f"{Path(MODULE_FILES[0]).stem}.SpeechText"
    write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": module}])
    write_json(folder / "config_sentence_transformers.json", _options(portable))
    (folder / "README.md").write_text(_readme(portable), encoding="utf-8")


def _options(portable: Portable) -> dict[str, Any]:
    """Prompts by task. Those of `encode_query` and `encode_document` are what this library puts
    before a query without a task and before a document, unless tasks have these names."""
    document = portable.tokenizer.document_prompt
    usual = {"query": portable.speech_prompt, "document": document}
    return {
        "model_type": "SentenceTransformer",
        "prompts": usual | portable.prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }


def _readme(portable: Portable) -> str:
    names = ", ".join(json.dumps(task) for task in portable.prompts) or "none"
    dims = ", ".join(map(str, portable.trained_dims))
    separate = portable.model.separate_dims
    cut = (
        "Speech has a vector of its own for each dimension, so these may not be truncated."
        if separate
        else f"Prefixes of {dims} coordinates are embeddings too: `truncate_dim=`, and "
        "`normalize_embeddings=True` for unit length."
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, speech, mrl_jax]
---
# Embeddings of speech and text, {portable.dim} coordinates

Exported from mrl_jax, model {portable.info.digest[:12]}. The folder holds code: read it, then
load it with `trust_remote_code=True`.

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER", trust_remote_code=True)
documents = model.encode(["a text", "another"])
queries = model.encode(["question.wav", {{"array": samples, "sampling_rate": 16000}}])
print(model.similarity(queries, documents))
```

Prompts by name (`prompt_name=`): {names}. {cut}
"""
