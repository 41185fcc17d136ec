"""A model as MTEB's `AbsEncoder` takes it: recordings and texts of its tasks to vectors.

MTEB says of each input whether it is a query, a document, or neither. Queries get the prompt of
their task, written documents none; a recording always has one, as in training.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.extras import optional_imports
from mrl_jax.data.audio.decode import decode_clip, load_each
from mrl_jax.data.sets.tables import row_audio
from mrl_jax.inference.embedder import Clip, Embedder, EmbedOptions
from mrl_jax.integrations.prompted import known_dim, known_task
from mrl_jax.nn import param_tree

with optional_imports("mrl_jax.integrations.mteb"):
    import datasets
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType

CLIPS = 256
"""Recordings that are decoded at once."""
INPUTS = ("audio", "text")
"""Columns of what is embedded."""
NO_TASKS: Mapping[str, str] = MappingProxyType({})


class MtebEncoder(AbsEncoder):
    """A model to be passed to `mteb.evaluate`.

    Args:
        model: the embedder, or the folder of a model.
        tasks: by the name of an MTEB task, the task of the model whose prompt is put before its
            inputs.
        task: the same for the queries of all other MTEB tasks; by default that without a name.
        dim: length of the vectors; by default that of the embedder.
        details: fields of MTEB's `ModelMeta` that no record of the model has, such as `name`,
            `languages` and `license`; see `model_meta`.

    Attributes:
        embedder: the model.
        mteb_model_meta: what results name the model by.

    Raises:
        MrlError: no such model; a task that it has no prompt for; a dim that it does not have;
            details that MTEB refuses.
    """

    @checked
    def __init__(
        self,
        model: Embedder | str | Path,
        *,
        tasks: Mapping[str, str] = NO_TASKS,
        task: str = "",
        dim: PositiveInt | None = None,
        **details: Any,
    ):
        self.embedder = model if isinstance(model, Embedder) else Embedder.load(model)
        for one in (task, *tasks.values()):
            known_task(self.embedder, one)
        known_dim(self.embedder, dim)
        self._tasks, self._task, self._dim = tasks, task, dim
        self.mteb_model_meta = model_meta(self.embedder, tasks=tasks, task=task, dim=dim, **details)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> HostArray:
        """[N, E] float32 unit vectors of recordings or texts, in their order.

        Args:
            inputs: a PyTorch `DataLoader`, whose data set has a column `audio` or `text`.
            task_metadata: of the MTEB task; its name chooses the prompt.
            hf_split, hf_subset: not needed.
            prompt_type: query or document; None for tasks that tell the two not apart, whose
                texts are embedded as documents unless `tasks` names the task.
            kwargs: `show_progress_bar`; of MTEB's other options none is needed.

        Raises:
            MrlError: no inputs, or such as are both or neither; a recording that cannot be read.
        """
        if not len(inputs.dataset):
            raise MrlError("has no inputs", where=task_metadata.name, hint="check its data set")
        columns = {*inputs.dataset.features}
        if len(columns & {"audio", "text", "image", "video"}) != 1 or columns.isdisjoint(INPUTS):
            problem = f"its inputs have the columns {', '.join(sorted(columns))}"
            hint = "choose tasks of speech or text"
            expected = "expected either `audio` or `text`"
            raise MrlError(f"{problem}, {expected}", where=task_metadata.name, hint=hint)
        task = self._task_of(task_metadata.name, prompt_type)
        options: EmbedOptions = {"dim": self._dim, "task": task}
        options["progress"] = bool(kwargs.get("show_progress_bar", False))
        if "text" in columns:
            texts = [text for batch in inputs for text in batch["text"]]
            return self.embedder.embed_text(texts, **options)
        blocks = self._recordings(inputs.dataset, task_metadata.name)
        return np.concatenate([self.embedder.embed_speech(clips, **options) for clips in blocks])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> HostArray:
        """[N, M] float32 inner products, summed in float64 as `mrl-jax eval` does."""
        one, other = (np.atleast_2d(np.asarray(x, np.float64)) for x in (embeddings1, embeddings2))
        return (one @ other.T).astype(np.float32)

    def _task_of(self, name: str, prompt_type: PromptType | None) -> str | None:
        """The task whose prompt stands before an input; None for a document."""
        if prompt_type == PromptType.document:
            return None
        return self._tasks.get(name, self._task if prompt_type == PromptType.query else None)

    def _recordings(self, data: Any, name: str) -> Iterator[list[Clip]]:
        """The clips of a data set, some at a time; files are decoded here, not by `datasets`."""
        rate = self.embedder.model.speech.config.sample_rate
        most = self.embedder.max_seconds
        limit = most + 1 if np.isfinite(most) else None
        if isinstance(data.features["audio"], datasets.Audio):
            data = data.cast_column("audio", datasets.Audio(decode=False))

        def load(numbered: tuple[int, Any]) -> HostArray:
            number, value = numbered
            where = f"{name}, recording {number}"
            audio = row_audio(where, value, Path())
            if audio is None:
                raise MrlError("has no audio", where=where, hint="check the data set")
            source = f"{where} ({audio})" if isinstance(audio, Path) else where
            return decode_clip(audio, rate, name=source, max_seconds=limit)

        for start in range(0, len(data), CLIPS):
            block = data[start : start + CLIPS]["audio"]
            yield [(clip, rate) for clip in load_each(load, enumerate(block, start))]


@checked
def model_meta(
    embedder: Embedder,
    *,
    tasks: Mapping[str, str] = NO_TASKS,
    task: str = "",
    dim: PositiveInt | None = None,
    **details: Any,
) -> ModelMeta:
    """MTEB's description of a model, from its folder and its arrays.

    Args:
        tasks, task, dim: as of `MtebEncoder`; what differs from the default is in the
            description as well, so that results of the two are not mixed.
        details: other fields, which count before those that are known: `name` ("owner/model"; by
            default the folder's), `languages` ("wol-Latn"), `license`, `release_date`,
            `training_datasets`, `reference` and so on.

    Raises:
        MrlError: a field that MTEB refuses.
    """
    info, folder = embedder.info, embedder.folder
    arrays = [leaf.get_value() for leaf in param_tree.flat_weights(embedder.model).values()]
    options = {"tasks": dict(tasks), "task": task, "dim": dim}  # A dict, as MTEB copies it.
    loader = None
    if folder is not None:
        loader = functools.partial(load_encoder, folder=folder, **options)
    unknown = ("release_date", "languages", "license", "open_weights", "training_datasets")
    fields: dict[str, Any] = {
        **dict.fromkeys((*unknown, "public_training_code", "public_training_data")),
        "loader": loader,
        "name": f"mrl_jax/{info.kind if folder is None else folder.resolve().name}",
        "revision": info.digest,
        "n_parameters": sum(array.size for array in arrays),
        "memory_usage_mb": sum(array.nbytes for array in arrays) / 2**20,
        "max_tokens": info.max_text_tokens,
        "embed_dim": sorted(info.dims, reverse=True) if dim is None else dim,
        "framework": ["JAX"],
        "similarity_fn_name": ScoringFunction.COSINE,
        "use_instructions": any(info.prompts.values()),
        "modalities": ["audio", "text"],
        "experiment_kwargs": {key: value for key, value in options.items() if value} or None,
    }
    try:
        return ModelMeta(**(fields | details))
    except ValueError as error:  # Pydantic's is one: its lines are the field and what is wrong.
        lines = [line.strip() for line in str(error).splitlines()[1:3]] or [first_line(error)]
        hint = "correct it, see MTEB's `ModelMeta`"
        raise MrlError(f"MTEB refuses {': '.join(lines)}", where="details", hint=hint) from error


def load_encoder(
    name: str, revision: str | None = None, *, folder: Path, device: Any = None, **options: Any
) -> MtebEncoder:
    """What `ModelMeta.load_model` calls.

    Raises:
        MrlError: as `MtebEncoder`; the folder holds another revision.
    """
    dim = options.pop("embed_dim", None) or options.pop("dim", None)
    encoder = MtebEncoder(folder, name=name, **(options | {"dim": dim}))
    there = encoder.embedder.info.digest
    if revision not in (None, there):
        problem = f"holds the model {there[:12]}, and {revision[:12]} is asked for"
        raise MrlError(problem, where=folder, hint="name the folder of that model")
    return encoder
