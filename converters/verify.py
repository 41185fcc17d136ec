"""Compare a converted tower with PyTorch, layer by layer, on the same input."""

import dataclasses
import functools
import gc
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.checkpoints.towers import TowerInfo, load_tower, read_checked_weights, read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.files import write_json
from mrl_jax.core.remote import upload
from mrl_jax.models.inputs import pad_clips
from mrl_jax.models.speech_tower import SpeechTowerConfig
from mrl_jax.models.towers import TOWERS

from .checkpoints import DTYPES, Checkpoint, read_json
from .convert import open_source
from .families import family_of
from .lora import folder_without_adapter
from .verify_end_to_end import (
    Count,
    Outcomes,
    compare_texts,
    compare_words,
    original_library,
    own_samples,
)

TOLERANCE = 1e-5
"""Relative error that float32 arithmetic in another order may cause."""

Ladder = dict[str, HostArray]
"""States of one forward pass by name, in order; valid places only, one row each."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    """How far a tower is from its checkpoint at every layer.

    Attributes:
        errors: ‖ours − theirs‖ / ‖theirs‖ by state, in order: of samples, of the encoder, of the
            vectors of raw texts.
        tolerance: the largest error that passes.
        inputs: what was run.
        digest: of the tower's weights.
        versions: of the libraries on both sides.
        counts: tokens and words that differ, by what they are of.
        not_covered: what was not compared, and why.
    """

    errors: Mapping[str, float]
    tolerance: float
    inputs: str
    digest: str
    versions: Mapping[str, str]
    counts: Mapping[str, Count] = dataclasses.field(default_factory=dict)
    not_covered: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        # Written so that NaN fails.
        close = all(error <= self.tolerance for error in self.errors.values())
        return close and not any(count.differ for count in self.counts.values())

    @property
    def failure(self) -> str:
        """What is furthest off; empty where the certificate holds."""
        if self.holds:
            return ""
        for name, count in self.counts.items():
            if count.differ:
                return f"{count.differ} of {count.of} {name} differ ({count.first})"

        def size(name: str) -> float:
            error = self.errors[name]
            return math.inf if math.isnan(error) else error

        worst = max(self.errors, key=size)
        error = self.errors[worst]
        return f"{worst} is off by {error:.2e}, expected at most {self.tolerance:g}"


def verify(
    tower: Path,
    source: str,
    *,
    audio: Sequence[Path] = (),
    revision: str | None = None,
    subfolder: str | None = None,
    adapter: str | None = None,
    tolerance: float = TOLERANCE,
) -> Certificate:
    """Run both models in float32 and write `tower`/verification.json.

    The PyTorch side gets the checkpoint's weights in the tower's dtype, so that a
    bfloat16 tower is compared with bfloat16 weights.

    Args:
        tower: a converted tower.
        source: the checkpoint it came from: local folder or hub id.
        audio: recordings to run a speech tower on; noise of three lengths by default.
        revision: branch, tag or commit on the hub.
        subfolder: folder inside `source` to read instead.
        adapter: the LoRA adapter that was merged into the tower.
        tolerance: the largest relative error that passes.

    Raises:
        MrlError: tower or checkpoint cannot be read, or they are of different kinds;
            PyTorch or transformers is not installed; audio that cannot be embedded.
    """
    require("torch", "transformers", by="a comparison with the original model", extra="verify")
    if (tower / MODEL_FILE).is_file():
        raise MrlError(
            "is a whole model, expected one of its towers",
            where=tower,
            hint=f"pass {tower / 'speech'} or {tower / 'text'}, and the folder that it came from",
        )
    info = read_info(tower)
    _check_adapter(tower, adapter)
    checkpoint = open_source(
        source,
        family=TOWERS[info.kind].family,
        language=info.naming.get("language"),
        adapter=adapter,
        revision=revision,
        subfolder=subfolder,
    )
    _check_same_model(tower, info, checkpoint)
    read_checked_weights(tower, info)  # The certificate names them by their digest.
    outcomes = Outcomes()
    with jax.default_matmul_precision("highest"):
        if TOWERS[info.kind].modality == "text":
            inputs, ours, theirs = _run_text(tower, info, checkpoint, outcomes)
        else:
            inputs, ours, theirs = _run_speech(tower, info, checkpoint, audio, outcomes)
    certificate = Certificate(
        errors={name: relative_error(ours[name], theirs[name]) for name in theirs}
        | {name: relative_error(*arrays) for name, arrays in outcomes.arrays.items()},
        tolerance=tolerance,
        inputs=inputs,
        digest=f"sha256:{info.digest}",
        versions=_versions(),
        counts=outcomes.counts,
        not_covered=tuple(outcomes.not_covered),
    )
    _write(tower / "verification.json", certificate)
    return certificate


def _run_text(
    tower: Path, info: TowerInfo, checkpoint: Checkpoint, outcomes: Outcomes
) -> tuple[str, Ladder, Ladder]:
    """What was run, our states and theirs; of raw texts, what is put into `outcomes`."""
    tokens, mask = _random_tokens(info.config.vocab_size)
    inputs = f"{tokens.shape[0]} texts of up to {tokens.shape[1]} random tokens"
    theirs = _torch_text(checkpoint, info, tokens, mask)
    ours = _our_text(tower, tokens, mask)
    as_tower = functools.partial(_as_tower, checkpoint=checkpoint, dtype=info.dtype)
    compare_texts(tower, info, checkpoint.folder, as_tower, outcomes)
    return inputs, ours, theirs


def _run_speech(
    tower: Path,
    info: TowerInfo,
    checkpoint: Checkpoint,
    audio: Sequence[Path],
    outcomes: Outcomes,
) -> tuple[str, Ladder, Ladder]:
    """What was run, our states and theirs; of words, what is put into `outcomes`."""
    clips = _read_audio(audio, info.config) or _noise(info.config)
    inputs = ", ".join(map(str, audio)) if audio else f"{len(clips)} clips of noise"
    theirs = _torch_speech(checkpoint, info, clips, outcomes)
    ours = _our_speech(tower, info, clips)
    if "logits" in theirs:
        frames = [int(info.config.frame_count(len(clip))) for clip in clips]
        logits = ours["logits"], theirs["logits"]
        compare_words(info, checkpoint.folder, logits, frames, outcomes)
    return inputs, ours, theirs


def relative_error(ours: HostArray, theirs: HostArray) -> float:
    """‖ours − theirs‖ / ‖theirs‖, in float64."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _check_same_model(tower: Path, info: TowerInfo, checkpoint: Checkpoint) -> None:
    published, model_type = family_of(info.kind), checkpoint.config.get("model_type")
    if model_type != (expected := published.model_type):
        _refuse(tower, f"is a {expected} tower, and the checkpoint is of model type {model_type!r}")
    described = published.describe(checkpoint)
    if described.config != info.config:
        ours, theirs = dataclasses.asdict(info.config), dataclasses.asdict(described.config)
        name = next(name for name in ours if ours[name] != theirs[name])
        _refuse(tower, f"has {name} {ours[name]}, and the checkpoint has {theirs[name]}")
    if info.kind != described.kind:
        _refuse(tower, f"is a {info.kind} tower, and the checkpoint is a {described.kind}")
    if TOWERS[info.kind].abstract_recogniser is not None:
        outputs = info.groups["lm_head"]["kernel"][-1]
        expected_outputs = described.leaves["lm_head.kernel"][-1]
        if outputs != expected_outputs:
            _refuse(tower, f"has {outputs} outputs, and the checkpoint has {expected_outputs}")


def _check_adapter(tower: Path, adapter: str | None) -> None:
    path = tower / "report.json"
    merged = read_json(path).get("adapter") if path.is_file() else None
    if merged and adapter is None:
        source = merged.get("source")
        raise MrlError(
            f"was made with an adapter, {source}",
            where=tower,
            hint=f"pass it here too: `--adapter {source}`",
        )


def _refuse(tower: Path, problem: str) -> NoReturn:
    hint = "pass the checkpoint that the tower was converted from"
    raise MrlError(problem, where=tower, hint=hint)


def _random_tokens(vocab_size: int) -> tuple[HostArray, HostArray]:
    """Three texts, one of them padded on the right and one on the left."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, (3, 24)).astype(np.int32)
    mask = np.ones((3, 24), bool)
    mask[1, 15:] = False
    mask[2, :9] = False
    return tokens, mask


def _noise(config: SpeechTowerConfig) -> list[HostArray]:
    rng = np.random.default_rng(0)
    second = config.sample_rate
    lengths = (config.min_samples, second // 2, second * 3 // 2)
    clips = [rng.standard_normal(max(n, config.min_samples)) for n in lengths]
    # Quiet and off zero, so that it shows how clips are normalised.
    return [(0.1 * clip + 0.02).astype(np.float32) for clip in clips]


def _read_audio(paths: Sequence[Path], config: SpeechTowerConfig) -> list[HostArray]:
    from mrl_jax.data.audio.decode import load_clip

    clips = [load_clip(path, config.sample_rate) for path in paths]
    if clips:
        pad_clips(clips, config, names=paths)  # Fails with the file's name, before anything runs.
    return clips


def _torch_model(checkpoint: Checkpoint, info: TowerInfo) -> Any:
    """The original model in float32, its weights rounded as the tower's are."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    name = family_of(info.kind).torch_classes[info.kind]
    adapter: dict[str, Any] = {}
    if checkpoint.language is not None:
        # The output layer inside is another language's, of another size.
        adapter = {"target_lang": checkpoint.language, "ignore_mismatched_sizes": True}
    problem = "transformers cannot load the checkpoint"
    with (
        original_library(problem, where=checkpoint.folder),
        folder_without_adapter(checkpoint.folder) as folder,
    ):
        model = getattr(transformers, name).from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            **adapter,
        )
    _as_tower(model, checkpoint=checkpoint, dtype=info.dtype)
    return model.eval()


def _as_tower(model: Any, *, checkpoint: Checkpoint, dtype: str) -> None:
    """Give a float32 torch module of the checkpoint the values that the tower's weights have.

    Args:
        model: transformers' encoder, or a module around it.
        checkpoint: whose adapter is added to it, if it has one.
        dtype: that the tower is stored in.
    """
    import torch

    if checkpoint.adapter is not None:
        checkpoint.adapter.add_to_torch(model)
    if dtype in DTYPES and dtype != "float32":
        rounded = getattr(torch, dtype)
        with torch.no_grad():
            # Statistics of batch norm are no parameters, and rounded as well.
            for weight in model.state_dict().values():
                if weight.is_floating_point():
                    weight.copy_(weight.to(rounded).to(torch.float32))


def _hooked(modules: Sequence[Any], run: Any) -> tuple[list[HostArray], Any]:
    """What each torch module returned while `run` ran, and what `run` returned."""
    import torch

    states: list[HostArray] = []

    def keep(_module: Any, _args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        states.append(first.numpy().copy())

    handles = [module.register_forward_hook(keep) for module in modules]
    with torch.no_grad():
        result = run()
    for handle in handles:
        handle.remove()
    return states, result


def _torch_text(
    checkpoint: Checkpoint, info: TowerInfo, tokens: HostArray, mask: HostArray
) -> Ladder:
    import torch

    model = _torch_model(checkpoint, info)
    ids, valid = torch.from_numpy(tokens).long(), torch.from_numpy(mask).long()
    modules = [model.embed_tokens, *model.layers]
    (embedded, *states), result = _hooked(
        modules, lambda: model(input_ids=ids, attention_mask=valid)
    )
    return _ladder(embedded, states, {"output": result.last_hidden_state}, mask)


def _our_text(tower: Path, tokens: HostArray, mask: HostArray) -> Ladder:
    graphdef, state = nnx.split(load_tower(tower, dtype=jnp.float32))

    @jax.jit
    def run(state: Any) -> tuple[jax.Array, Any]:
        encoder = nnx.merge(graphdef, state)
        return encoder.embed_tokens(jnp.asarray(tokens)), encoder(tokens, mask, keep_states=True)

    embedded, output = run(state)
    return _ladder(embedded, output.layer_states, {"output": output.last_hidden}, mask)


def _ladder(first: Any, layers: Iterable[Any], last: Mapping[str, Any], mask: Any) -> Ladder:
    """The valid places of all states, named in order."""
    named = {"input": first}
    named |= {f"layer {number}": state for number, state in enumerate(layers, start=1)}
    return {name: np.asarray(state)[mask] for name, state in (named | dict(last)).items()}


def _torch_speech(
    checkpoint: Checkpoint, info: TowerInfo, clips: Sequence[HostArray], outcomes: Outcomes
) -> Ladder:
    """Each clip alone, from its raw samples: padding would change the original's group norm."""
    import torch

    model = _torch_model(checkpoint, info)
    layers = model.base_model.encoder.layers
    inputs: list[HostArray] = []

    def keep_input(_module: Any, args: Any, kwargs: Any) -> None:
        first = args[0] if args else kwargs["hidden_states"]
        inputs.append(first.numpy().copy())

    layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)
    ladders = []
    read = own_samples(checkpoint.folder, clips, info.config.sample_rate, outcomes)
    for number, clip in enumerate(clips):
        ours = pad_clips([clip], info.config)[0]
        samples = torch.from_numpy(ours if read is None else read[number][None])
        states, result = _hooked(
            layers, lambda samples=samples: model(samples, output_hidden_states=True)
        )
        name, last = ("logits", "logits") if "logits" in result else ("output", "last_hidden_state")
        ladder = {} if read is None else {"samples": samples[0].numpy()}
        ladders.append(ladder | _ladder(inputs[-1], states, {name: result[last]}, 0))
    return {name: np.concatenate([ladder[name] for ladder in ladders]) for name in ladders[0]}


def _our_speech(tower: Path, info: TowerInfo, clips: Sequence[HostArray]) -> Ladder:
    """All clips in one padded batch."""
    samples, lengths = pad_clips(clips, info.config)
    recogniser = TOWERS[info.kind].abstract_recogniser is not None
    graphdef, state = nnx.split(load_tower(tower, recogniser=recogniser, dtype=jnp.float32))

    @jax.jit
    def run(state: Any) -> tuple[Any, dict[str, jax.Array]]:
        model = nnx.merge(graphdef, state)
        output = (model.encoder if recogniser else model)(samples, lengths)
        last = output.last_hidden
        return output, {"logits": model.lm_head(last)} if recogniser else {"output": last}

    output, last = run(state)
    read = [row[:length] for row, length in zip(np.asarray(samples), lengths, strict=True)]
    mask = np.asarray(output.frame_mask)
    ladder = _ladder(output.layer_input, output.layer_states, last, mask)
    return {"samples": np.concatenate(read)} | ladder


def _versions() -> dict[str, str]:
    import torch
    import transformers

    import mrl_jax

    gc.collect()
    modules = (mrl_jax, jax, torch, transformers)
    return {module.__name__: module.__version__ for module in modules}


def _write(path: Path, certificate: Certificate) -> None:
    record = {"holds": certificate.holds, **dataclasses.asdict(certificate)}
    # JSON has no NaN.
    record["errors"] = {k: e if np.isfinite(e) else None for k, e in certificate.errors.items()}
    try:
        write_json(path, record)
    except OSError as error:
        raise MrlError(f"could not be written: {error.strerror}", where=path) from error
    upload(path)
