"""A training step of late fusion at full size, ours and PyTorch's, for train_step.py and gpu.sh.

HuBERT-base and Qwen3-0.6B architectures of random weights, frozen; the head, nested InfoNCE at
four dims and AdamW. PyTorch: transformers' towers (SDPA attention, no gradients of weights) and
the same head.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from common import published_config

DIMS = (1024, 512, 256, 128)
RATE = 16_000
READERS, AHEAD = 2, 4
"""Threads that make batches, and batches that they make ahead: training's defaults."""
SOFT_TOKENS = 12.0
"""Room for speech tokens a second with the soft head; the linear head has 25."""
TOY_HUBERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TOY_QWEN3 = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a step is given; `toy` makes the towers tiny."""

    batch: int = 4
    seconds: float = 4.0
    tokens: int = 32
    bf16: bool = False
    toy: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        return (32, 16, 8, 4) if self.toy else DIMS

    @property
    def configs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Published configs of the speech and the text tower."""
        hubert, qwen3 = published_config("hubert-base"), published_config("qwen3-0.6b")
        return (hubert | TOY_HUBERT, qwen3 | TOY_QWEN3) if self.toy else (hubert, qwen3)

    def arrays(self) -> tuple[Any, Any]:
        """Clips of unit variance, and ids of documents."""
        rng = np.random.default_rng(0)
        samples = rng.standard_normal((self.batch, int(self.seconds * RATE)), dtype=np.float32)
        most = min(self.configs[1]["vocab_size"], 151_000)
        return samples, rng.integers(0, most, (self.batch, self.tokens))


def flops(sizes: Sizes, tokens_a_second: float = 25.0) -> dict[str, float]:
    """Of a step, two a multiplication: what the towers need, forward and back to the head.

    HuBERT forward only; the text tower forward over speech and documents, and backward to its
    inputs over speech, which costs as much as forward. Attention's products are left out: at
    these lengths they are below a hundredth.
    """
    hubert, qwen3 = sizes.configs
    clips = sizes.batch * sizes.seconds
    layers_of_convolution = zip(
        hubert["conv_dim"], hubert["conv_kernel"], hubert["conv_stride"], strict=True
    )
    rate, before, convolutions = float(RATE), 1, 0.0
    for channel, kernel, stride in layers_of_convolution:
        rate /= stride
        convolutions += 2 * clips * rate * channel * kernel * before
        before = channel
    width, wide = hubert["hidden_size"], hubert["intermediate_size"]
    layer = 4 * width**2 + 2 * width * wide
    speech = convolutions + 2 * 50 * clips * hubert["num_hidden_layers"] * layer
    heads = 2 * qwen3["num_attention_heads"] + 2 * qwen3["num_key_value_heads"]
    block = qwen3["hidden_size"] * (heads * qwen3["head_dim"] + 3 * qwen3["intermediate_size"])
    text = 2 * qwen3["num_hidden_layers"] * block
    counts = {
        "speech tower": speech,
        "text tower, speech": 2 * text * tokens_a_second * clips,
        "text tower, documents": text * sizes.batch * sizes.tokens,
    }
    return {**counts, "all": sum(counts.values())}


class TorchSide:
    """transformers' towers and a head of torch's own layers."""

    def __init__(self, sizes: Sizes):
        import torch
        import transformers

        self.sizes = sizes
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if sizes.bf16 else torch.float32
        torch.manual_seed(0)
        hubert, qwen3 = sizes.configs
        with torch.device(self.device):
            self.speech = transformers.HubertModel(transformers.HubertConfig(**hubert))
            self.text = transformers.Qwen3Model(transformers.Qwen3Config(**qwen3))
            layers, width = hubert["num_hidden_layers"], qwen3["hidden_size"]
            self.projection = torch.nn.Linear(layers * hubert["hidden_size"], width, bias=False)
            self.conv = torch.nn.Conv1d(width, width, kernel_size=2, stride=2)
        towers: list[Any] = [self.speech, self.text]
        for tower in towers:
            tower.to(self.dtype).eval().requires_grad_(False)
        samples, ids = sizes.arrays()
        self.samples = torch.from_numpy(samples).to(self.device)
        self.ids = torch.from_numpy(ids).to(self.device)

    def embed_text(self, ids: Any) -> Any:
        return pooled(self.text(ids, use_cache=False))

    def embed_speech(self, samples: Any) -> Any:
        import torch

        with torch.no_grad():
            given = samples.to(self.dtype)
            states = self.speech(given, output_hidden_states=True).hidden_states[1:]
        frames = self.projection(torch.cat(states, dim=-1).float())
        tokens = self.conv(frames.transpose(1, 2)).transpose(1, 2)
        return pooled(self.text(inputs_embeds=tokens.to(self.dtype), use_cache=False))

    def loss(self) -> Any:
        import torch
        from torch.nn.functional import cross_entropy, normalize

        with torch.no_grad():
            documents = self.embed_text(self.ids)
        queries = self.embed_speech(self.samples)
        target = torch.arange(self.sizes.batch, device=self.device)
        parts = []
        for dim in self.sizes.dims:
            short = (normalize(x[:, :dim], dim=-1) for x in (queries, documents))
            first, second = short
            parts.append(cross_entropy(first @ second.T / 0.05, target))
        return sum(parts) / len(parts)

    def step(self, *, compiled: bool) -> Callable[[], float]:
        """A step that gives its loss, eager or by torch.compile."""
        import torch

        head = torch.nn.ModuleList([self.projection, self.conv])
        optimizer = torch.optim.AdamW(head.parameters(), lr=3e-4)
        loss_of = torch.compile(self.loss) if compiled else self.loss

        def step() -> float:
            optimizer.zero_grad()
            loss = loss_of()
            loss.backward()
            optimizer.step()
            return float(loss)

        return step


def pooled(output: Any) -> Any:
    """torch's unit vectors of the last places."""
    import torch

    return torch.nn.functional.normalize(output.last_hidden_state[:, -1].float(), dim=-1)


class OurSide:
    """Our towers, once, and the project's own step over them."""

    def __init__(self, sizes: Sizes):
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from mrl_jax.models.ctc import HubertCtc
        from mrl_jax.models.qwen3 import Qwen3Encoder
        from mrl_jax.nn import param_tree

        self.sizes = sizes
        dtype = jnp.bfloat16 if sizes.bf16 else jnp.float32
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype}
        hubert, qwen3 = our_configs(sizes)

        # Jitted, as hundreds of small programs take longer to compile than one.
        @nnx.jit
        def make() -> tuple[Any, Any]:
            rngs = nnx.Rngs(0)
            recogniser = HubertCtc(hubert, 32, rngs=rngs, **options)
            return recogniser, Qwen3Encoder(qwen3, rngs=rngs, **options)

        recogniser, text = make()
        self.recogniser, self.text = param_tree.freeze(recogniser), param_tree.freeze(text)
        self.device = jax.devices()[0].device_kind

    def model(self, head: str, **changes: Any) -> Any:
        """`fusion_model` of these towers."""
        return fusion_model(head, self.recogniser, self.text, **changes)

    def step(self, head: str = "linear", cached: str = "") -> tuple[Callable[..., float], Any]:
        """A function that takes some steps, one by default, and gives the last loss; the program.

        It is compiled as training compiles it. Cached states are far larger than samples: copying
        them in the host's memory, by threads ahead of the steps, and moving them is part of a step.
        Reading them from a disk is not.

        Args:
            head: see `model`.
            cached: "documents" for their vectors, "both" for the speech tower's states too.
        """
        import jax

        from mrl_jax.losses.config import LossConfig
        from mrl_jax.nn import param_tree
        from mrl_jax.training.contrastive.step import make_train_step
        from mrl_jax.training.devices import Devices
        from mrl_jax.training.optim import OptimConfig, make_optimizer
        from mrl_jax.training.state import init_state

        split = param_tree.split(self.model(head))
        place = Devices("pmap", jax.devices()[:1])
        optimizer = make_optimizer(OptimConfig(warmup_fraction=0.0), 100)
        state = place.replicate(init_state(split.trained, optimizer))
        frozen = place.replicate(split.frozen)
        host = self.batch(cached)
        batch = place.put_batch(host)
        loss_config = LossConfig(dims=self.sizes.dims)
        step = make_train_step(split.rebuild, optimizer, loss_config, axis_name=place.axis_name)
        compiled: Any = place.compile(step)
        program = compiled.lower(state, frozen, batch).compile()

        def run(steps: int = 1) -> float:
            nonlocal state
            before: Any = None
            batches = copies_ahead(host, steps) if host.speech is not None else [None] * steps
            for given in batches:
                placed = batch if given is None else place.put_batch(given)
                state, metrics = program(state, frozen, placed)
                # As in training, which waits for the step before when one is on its way.
                jax.block_until_ready(before)
                before = metrics["loss"]
            return float(before)

        return run, program

    def batch(self, cached: str) -> Any:
        """The rows of a step, on the host."""
        from mrl_jax.core.batch import Batch

        samples, ids = self.sizes.arrays()
        count = self.sizes.batch
        rng = np.random.default_rng(1)
        tokens, vectors, speech = ids.astype(np.int32), None, None
        lengths = np.full(count, samples.shape[1], np.int32)
        if cached:
            tokens = tokens[:, :0]
            vectors = rng.standard_normal((count, self.text.config.width), np.float32)
        if cached == "both":
            speech = stored_speech(rng, count, self.recogniser.encoder.config, samples.shape[1])
            samples = samples[:, :0]
        rows = np.arange(count, dtype=np.int32)
        return Batch(
            samples=samples,
            lengths=lengths,
            prompt=np.zeros((count, 0), np.int32),
            prompt_mask=np.zeros((count, 0), bool),
            document=tokens,
            document_mask=np.ones(tokens.shape, bool),
            query_ids=rows,
            document_ids=rows,
            rows=np.ones(count, bool),
            document_vectors=vectors,
            speech=speech,
        )


def copies_ahead(batch: Any, count: int) -> Iterator[Any]:
    """So many copies of a batch with cached states, made by threads ahead of their use."""

    def copy() -> Any:
        speech = dataclasses.replace(batch.speech, states=batch.speech.states.copy())
        return dataclasses.replace(batch, speech=speech)

    with ThreadPoolExecutor(READERS) as readers:
        waiting = deque(readers.submit(copy) for _ in range(min(count, AHEAD)))
        for made in range(count):
            given = waiting.popleft().result()
            if made + AHEAD < count:
                waiting.append(readers.submit(copy))
            yield given


def fusion_model(head: str, recogniser: Any, text: Any, **changes: Any) -> Any:
    """A model with the "linear" or the "soft" head; `changes` are fields of the latter."""
    from flax import nnx

    from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
    from mrl_jax.models.soft_ctc import SoftCtc, SoftCtcConfig

    if head == "linear":
        return LateFusion(recogniser.encoder, text, config=LateFusionConfig(), rngs=nnx.Rngs(1))
    config = SoftCtcConfig(
        outputs=((), *((i,) for i in range(1, 32))),
        end_token=text.config.vocab_size - 1,
        max_tokens_per_second=SOFT_TOKENS,
        residual="frames",
    )
    config = dataclasses.replace(config, **changes)
    return SoftCtc(recogniser, text, config=config, rngs=nnx.Rngs(1))


def our_configs(sizes: Sizes) -> tuple[Any, Any]:
    """Our configs of the same two towers."""
    from mrl_jax.models.hubert import HubertConfig
    from mrl_jax.models.qwen3 import Qwen3Config

    hubert, qwen3 = HubertConfig.base(), Qwen3Config.embedding_0_6b()
    if not sizes.toy:
        return hubert, qwen3
    hubert = dataclasses.replace(
        hubert,
        width=TOY_HUBERT["hidden_size"],
        num_layers=TOY_HUBERT["num_hidden_layers"],
        num_heads=TOY_HUBERT["num_attention_heads"],
        mlp_width=TOY_HUBERT["intermediate_size"],
        conv_channels=tuple(TOY_HUBERT["conv_dim"]),
        position_kernel=TOY_HUBERT["num_conv_pos_embeddings"],
        position_groups=TOY_HUBERT["num_conv_pos_embedding_groups"],
    )
    qwen3 = dataclasses.replace(
        qwen3,
        vocab_size=TOY_QWEN3["vocab_size"],
        width=TOY_QWEN3["hidden_size"],
        num_layers=TOY_QWEN3["num_hidden_layers"],
        num_heads=TOY_QWEN3["num_attention_heads"],
        num_kv_heads=TOY_QWEN3["num_key_value_heads"],
        head_width=TOY_QWEN3["head_dim"],
        mlp_width=TOY_QWEN3["intermediate_size"],
    )
    return hubert, qwen3


def stored_speech(rng: np.random.Generator, clips: int, hubert: Any, samples: int) -> Any:
    """Random states in bfloat16, as a cache of the speech tower's outputs gives them."""
    import ml_dtypes

    from mrl_jax.core.batch import StoredSpeech

    frames = hubert.frame_count(samples)
    shape = (frames, hubert.num_layers, hubert.width)
    states = rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
    counts = np.full(clips, frames, np.int32)
    return StoredSpeech(states=np.stack([states] * clips), scales=None, frames=counts)
