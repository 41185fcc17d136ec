"""Qwen3 against transformers, through the real converter, from single norms to padded batches.

What is ours alone is tested without torch, as in `test_hubert`.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest
import tiny_towers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import BFLOAT16_COSINE, DIFFERS, EXACT, QUICK, TOLERANCE

import mrl_jax
from converters.convert import convert
from converters.random_init import random_init
from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder, abstract_qwen3
from mrl_jax.models.text_pooling import DenseConfig
from mrl_jax.nn import param_tree
from mrl_jax.nn.rope import rope_angles

LENGTHS = (9, 4, 1, 7)
SEED = 3


@dataclasses.dataclass(frozen=True)
class Tower:
    """A converted tower beside the published model that it came from, if there is one."""

    ours: Qwen3Encoder
    folder: Path
    theirs: Any = None


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, state, inputs, mask):
    tower = nnx.merge(graphdef, state)
    output = tower(inputs, mask, keep_states=True)
    return output.last_hidden, output.layer_states


@functools.partial(jax.jit, static_argnums=(0, 4), compiler_options=QUICK)
def _embed(graphdef, state, inputs, mask, dim):
    return nnx.merge(graphdef, state).embed(inputs, mask, dim=dim)


def forward(tower, inputs, mask) -> tuple[np.ndarray, np.ndarray]:
    """The last hidden state and those of all layers; towers of one config share a compile."""
    last, states = _forward(*nnx.split(tower), jnp.asarray(inputs), jnp.asarray(mask))
    return np.asarray(last), np.asarray(states)


def embed(tower, inputs, mask, dim=None) -> np.ndarray:
    return np.asarray(_embed(*nnx.split(tower), jnp.asarray(inputs), jnp.asarray(mask), dim))


def token_batch(
    lengths=LENGTHS, *, left: bool = False, size: int | None = None, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Random ids and their mask. Padding holds arbitrary ids: nothing may read them."""
    rng = np.random.default_rng(seed)
    size = max(lengths) if size is None else size
    ids = rng.integers(0, published.QWEN3["vocab_size"], (len(lengths), size), np.int32)
    mask = np.arange(size)[None] < np.array(lengths)[:, None]
    return ids, mask[:, ::-1].copy() if left else mask


# --- Parity with transformers -----------------------------------------------------------


def _move_theta(folder: Path) -> None:
    """Write θ as transformers 4 did: beside the sizes, and no rope_parameters."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    path.write_text(json.dumps(config))


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


# name: (changes of the published config, options of save_pretrained, edit of the folder)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "flat keys": ({}, {}, None),
    "flat keys, untied": ({"tie_word_embeddings": False}, {}, None),
    "model. keys, tied": ({"causal_lm": True}, {}, None),
    "model. keys, untied": ({"causal_lm": True, "tie_word_embeddings": False}, {}, None),
    "sharded": ({"causal_lm": True}, {"max_shard_size": "20KB"}, None),
    "old rope_theta": ({}, {}, _move_theta),
    "theta 1e4": (_rope(1e4), {}, None),
    "theta 1e4, old rope_theta": (_rope(1e4), {}, _move_theta),
    "head_dim is width / heads": ({"head_dim": 8}, {}, None),
    "one kv head": ({"num_key_value_heads": 1}, {}, None),
    "as many kv heads": ({"num_key_value_heads": 4}, {}, None),
    "coarse epsilon": ({"rms_norm_eps": 1e-2}, {}, None),
}


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Makes a variant of `VARIANTS` once, on demand."""

    @functools.cache
    def make(name: str) -> Tower:
        changes, options, edit = VARIANTS[name]
        folder = tmp_path_factory.mktemp("qwen3")
        theirs = published.torch_qwen3(SEED, **changes)
        ours = published.converted(theirs, folder, edit, **options)
        # A CausalLM holds the encoder as `model`.
        return Tower(ours, folder, getattr(theirs, "model", theirs))

    return make


def torch_forward(model, ids, mask) -> tuple[np.ndarray, np.ndarray]:
    """transformers' last hidden state, and each layer's output as a hook sees it."""
    torch = pytest.importorskip("torch")

    states = []

    def keep(_module, _inputs, output):
        states.append((output[0] if isinstance(output, tuple) else output).detach().numpy())

    hooks = [layer.register_forward_hook(keep) for layer in model.layers]
    try:
        with torch.no_grad():
            output = model(
                torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(mask).long()
            )
    finally:
        for hook in hooks:
            hook.remove()
    return output.last_hidden_state.numpy(), np.stack(states)


def assert_parity(ours, theirs, mask) -> None:
    """Every layer and the output, at valid tokens; a layer too many or too few fails."""
    (last, states), (their_last, their_states) = ours, theirs
    assert len(states) == len(their_states) == published.QWEN3["num_hidden_layers"]
    for state, their_state in zip(states, their_states, strict=True):
        assert published.relative_error(state[mask], their_state[mask]) <= TOLERANCE
    assert published.relative_error(last[mask], their_last[mask]) <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_is_transformers_in_a_padded_batch(variant, name):
    tower = variant(name)
    ids, mask = token_batch()
    theirs = torch_forward(tower.theirs, ids, mask)
    assert_parity(forward(tower.ours, ids, mask), theirs, mask)


def test_sharded_checkpoint_is_in_many_files(variant):
    # Otherwise the variant above tests nothing.
    assert len(list((variant("sharded").folder / "source").glob("*.safetensors"))) > 3


@pytest.mark.parametrize("length", [1, 9])
def test_a_single_text_is_transformers(variant, length):
    tower = variant("flat keys")
    ids, mask = token_batch((length,))
    assert_parity(forward(tower.ours, ids, mask), torch_forward(tower.theirs, ids, mask), mask)


def test_left_padding_is_transformers(variant):
    # transformers counts positions from the padding on; only their differences matter.
    tower = variant("flat keys")
    ids, mask = token_batch(left=True)
    assert_parity(forward(tower.ours, ids, mask), torch_forward(tower.theirs, ids, mask), mask)


@pytest.mark.parametrize("name", ["theta 1e4", "coarse epsilon"])
def test_other_config_is_another_model(variant, name):
    """Same weights, another θ or epsilon in config.json: the output must follow."""
    tower, other = variant("flat keys"), variant(name)
    ours, others = (param_tree.flat_weights(t.ours) for t in (tower, other))
    assert all(np.array_equal(ours[path][...], others[path][...]) for path in ours)
    ids, mask = token_batch()
    last, _ = forward(tower.ours, ids, mask)
    other_last, _ = forward(other.ours, ids, mask)
    assert published.relative_error(other_last[mask], last[mask]) > DIFFERS


def test_other_weights_are_far_off(variant):
    # What the parity tests would see if the checkpoint were not read.
    tower = variant("flat keys")
    ids, mask = token_batch()
    stranger = torch_forward(published.torch_qwen3(SEED + 1), ids, mask)
    last, _ = forward(tower.ours, ids, mask)
    assert published.relative_error(last[mask], stranger[0][mask]) > DIFFERS


# The ladder: transformers' submodule of each layer, ours, and whether it reads context.
RUNGS = {
    "input_layernorm": (lambda layer: layer.attention_norm, False),
    "self_attn.q_proj": (lambda layer: layer.attention.q_proj, False),
    "self_attn.k_proj": (lambda layer: layer.attention.k_proj, False),
    "self_attn.v_proj": (lambda layer: layer.attention.v_proj, False),
    "self_attn.q_norm": (lambda layer: layer.attention.q_norm, False),
    "self_attn.k_norm": (lambda layer: layer.attention.k_norm, False),
    "self_attn.o_proj": (lambda layer: layer.attention.o_proj, False),
    "self_attn": (lambda layer: layer.attention, True),
    "post_attention_layernorm": (lambda layer: layer.mlp_norm, False),
    "mlp": (lambda layer: layer.mlp, False),
    "": (lambda layer: layer, True),
}


@pytest.fixture(scope="module")
def recorded(variant) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Input and output of every submodule in one pass of transformers over whole rows."""
    torch = pytest.importorskip("torch")

    model = variant("flat keys").theirs
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def record(name):
        def hook(_module, args, kwargs, output):
            given = args[0] if args else kwargs["hidden_states"]
            output = output[0] if isinstance(output, tuple) else output
            seen[name] = given.detach().numpy(), output.detach().numpy()

        return hook

    hooks = [
        module.register_forward_hook(record(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name.startswith("layers.") or name in ("embed_tokens", "norm")
    ]
    with torch.no_grad():
        model(torch.from_numpy(token_batch((9, 9))[0]).long())
    for hook in hooks:
        hook.remove()
    return seen


def _rung(name: str, index: int) -> str:
    return f"layers.{index}.{name}".rstrip(".")


@pytest.fixture(scope="module")
def climbed(variant, recorded) -> dict[str, list[np.ndarray]]:
    """Our output of every rung in every layer, fed what transformers fed its own."""
    tower = variant("flat keys").ours
    config = tower.config
    graphdef, state = nnx.split(tower.layers)

    def climb(layer_state, inputs):
        layer = nnx.merge(graphdef, layer_state)
        positions = jnp.arange(9)[None, :]
        context = (rope_angles(positions, config.head_width, config.rope_theta),)
        return {
            name: pick(layer)(inputs[name], *(context if reads_context else ()))
            for name, (pick, reads_context) in RUNGS.items()
        }

    climb = jax.jit(climb, compiler_options=QUICK)
    layers = [
        climb(
            jax.tree.map(lambda leaf, i=index: leaf[i], state),
            {name: jnp.asarray(recorded[_rung(name, index)][0]) for name in RUNGS},
        )
        for index in range(config.num_layers)
    ]
    return {name: [np.asarray(layer[name]) for layer in layers] for name in RUNGS}


@pytest.mark.parametrize("name", RUNGS, ids=lambda name: name or "layer")
def test_ladder(recorded, climbed, name):
    for index, actual in enumerate(climbed[name]):
        assert published.relative_error(actual, recorded[_rung(name, index)][1]) <= TOLERANCE
    # A rung that read another layer's weights must fail.
    assert published.relative_error(climbed[name][0], recorded[_rung(name, 1)][1]) > DIFFERS


def test_ladder_ends(variant, recorded):
    tower = variant("flat keys").ours
    ids, expected = recorded["embed_tokens"]
    np.testing.assert_array_equal(tower.embed_tokens(jnp.asarray(ids, jnp.int32)), expected)
    given, expected = recorded["norm"]
    error = published.relative_error(tower.final_norm(jnp.asarray(given)), expected)
    assert error <= TOLERANCE < published.relative_error(given, expected)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("dim", [None, 8])
def test_embeddings_are_the_published_recipe(variant, left, dim):
    """transformers' last valid token of each text alone, cut, then normalised by torch."""
    torch = pytest.importorskip("torch")

    tower = variant("flat keys")
    ids, mask = token_batch(left=left)
    expected = []
    for row, valid in zip(ids, mask, strict=True):
        alone = row[valid][None]
        last, _ = torch_forward(tower.theirs, alone, np.ones_like(alone, bool))
        cut = torch.from_numpy(last[:, -1, :dim])
        expected.append(torch.nn.functional.normalize(cut, dim=-1).numpy()[0])
    actual = embed(tower.ours, ids, mask, dim)
    assert published.relative_error(actual, np.stack(expected)) <= TOLERANCE
    # Pooling the last place of the row, valid or not, is the usual mistake.
    careless = forward(tower.ours, ids, mask)[0][:, -1 if not left else 0, :dim]
    careless = careless / np.linalg.norm(careless, axis=-1, keepdims=True)
    assert published.relative_error(careless, np.stack(expected)) > DIFFERS


# --- What is ours alone -----------------------------------------------------------------


@pytest.fixture(scope="module")
def tower_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    config = {**published.QWEN3, "model_type": "qwen3", "rms_norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(config))
    random_init("qwen3", folder / "config.json", folder / "source", seed=SEED)
    convert(str(folder / "source"), folder / "tower", family="qwen3")
    return folder / "tower"


@pytest.fixture(scope="module")
def tower(tower_folder) -> Qwen3Encoder:
    return mrl_jax.load_qwen3(tower_folder)


def test_vectors_stand_in_for_tokens(tower):
    """The embeddings of ids, passed as vectors, give what the ids give."""
    ids, mask = token_batch()
    vectors = np.asarray(tower.embed_tokens.embedding[...])[ids]
    from_ids, from_vectors = forward(tower, ids, mask), forward(tower, vectors, mask)
    np.testing.assert_allclose(from_vectors[0][mask], from_ids[0][mask], atol=EXACT)
    np.testing.assert_allclose(from_vectors[1][:, mask], from_ids[1][:, mask], atol=EXACT)
    other = forward(tower, 1.5 * vectors, mask)[0]
    assert published.relative_error(other[mask], from_ids[0][mask]) > DIFFERS


def test_states_are_kept_only_on_request(tower):
    ids, mask = token_batch()
    graphdef, state = nnx.split(tower)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(state):
        tower = nnx.merge(graphdef, state)
        bare, kept = tower(ids, mask), tower(ids, mask, keep_states=True)
        return bare, kept, tower.final_norm(kept.layer_states[-1])

    bare, kept, normed = run(state)
    assert bare.layer_states is None
    assert kept.layer_states.shape == (tower.config.num_layers, *ids.shape, tower.config.width)
    np.testing.assert_allclose(bare.last_hidden, kept.last_hidden, atol=EXACT)
    # Layer states are before the final norm; the output is after it.
    np.testing.assert_allclose(normed, kept.last_hidden, atol=EXACT)
    raw = kept.layer_states[-1]
    assert published.relative_error(raw[mask], kept.last_hidden[mask]) > DIFFERS


MAX_TOKENS = 6  # Each length alone is a compile.
BATCH_SHAPES = ((2, 6), (4, 9))


@st.composite
def padded_batches(draw):
    """(lengths, left or right for each row, size): any text in any batch."""
    rows, size = draw(st.sampled_from(BATCH_SHAPES))
    lengths = draw(st.lists(st.integers(1, MAX_TOKENS), min_size=rows, max_size=rows))
    sides = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    return lengths, sides, size


def test_features_are_the_embedding_and_means_over_tokens(tower):
    ids, mask = token_batch()

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(state, ids):
        return nnx.merge(graphdef, state).features(ids, mask)

    graphdef, state = nnx.split(tower)
    features = np.asarray(run(state, jnp.asarray(ids)))
    last, states = forward(tower, ids, mask)
    np.testing.assert_allclose(features[:, 0], embed(tower, ids, mask), atol=EXACT)
    for row, valid in enumerate(mask):
        read = np.asarray(tower.embed_tokens.embedding[...])[ids]
        means = [layer[row][valid].mean(axis=0) for layer in (read, states[0], last)]
        np.testing.assert_allclose(features[row, 1:], means, atol=TOLERANCE)
    other = np.where(mask, ids, (ids + 17) % published.QWEN3["vocab_size"])
    np.testing.assert_array_equal(np.asarray(run(state, jnp.asarray(other))), features)


def _place(lengths, sides, size) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = token_batch(lengths, size=size)
    for row, left in enumerate(sides):
        mask[row] = mask[row, ::-1] if left else mask[row]
    return ids, mask


@settings(deadline=None, max_examples=40)
@given(padded_batches())
def test_padding_never_matters(tower, batch):
    """A text embeds alike alone and in any batch, whichever side is padded."""
    lengths, sides, size = batch
    ids, mask = _place(lengths, sides, size)
    together = embed(tower, ids, mask)
    for row, valid in enumerate(mask):
        alone = ids[row][valid][None]
        expected = embed(tower, alone, np.ones_like(alone, bool))[0]
        assert published.relative_error(together[row], expected) <= TOLERANCE


def test_an_ignored_mask_is_noticed(tower):
    """The case that must differ: the same batch with its padding read as text."""
    lengths, sides = (6, 3, 1, 5), (False, True, True, True)
    ids, mask = _place(lengths, sides, 9)
    together = embed(tower, ids, mask)
    unmasked = embed(tower, ids, np.ones_like(mask))
    for row in range(len(lengths)):
        assert published.relative_error(unmasked[row], together[row]) > DIFFERS


def test_what_padding_holds_is_never_read(tower):
    ids, mask = token_batch()
    other = np.where(mask, ids, (ids + 17) % published.QWEN3["vocab_size"])
    np.testing.assert_array_equal(embed(tower, ids, mask), embed(tower, other, mask))
    changed = ids.copy()
    changed[:, 0] = (ids[:, 0] + 17) % published.QWEN3["vocab_size"]
    difference = np.abs(embed(tower, ids, mask) - embed(tower, changed, mask))
    assert (difference.max(axis=-1) > DIFFERS).all()


def test_embeddings_have_unit_rows_at_every_dim(tower):
    ids, mask = token_batch()
    full = embed(tower, ids, mask)
    assert full.dtype == np.float32
    assert full.shape == (len(LENGTHS), tower.config.width)
    np.testing.assert_allclose(np.linalg.norm(full, axis=-1), 1, atol=EXACT)
    short = embed(tower, ids, mask, 8)
    np.testing.assert_allclose(np.linalg.norm(short, axis=-1), 1, atol=EXACT)
    cut = full[:, :8] / np.linalg.norm(full[:, :8], axis=-1, keepdims=True)
    np.testing.assert_allclose(short, cut, atol=EXACT)
    assert np.abs(short - full[:, :8]).max() > DIFFERS


def test_embed_refuses_a_dim_beyond_the_width(tower):
    ids, mask = token_batch((2,))
    with pytest.raises(ValueError, match="dim is 33, expected 1 to 32"):
        jax.eval_shape(lambda: tower.embed(ids, mask, dim=33))


def test_gradients_prove_the_masks(tower):
    """Padding, other rows and future tokens get a gradient of exactly zero."""
    _, mask = token_batch()
    mask[1] = mask[1, ::-1]  # One text is padded on the left.
    rows, size = mask.shape
    rng = np.random.default_rng(0)
    vectors = jnp.asarray(rng.standard_normal((rows, size, tower.config.width), np.float32))
    weights = jnp.asarray(rng.standard_normal(tower.config.width, np.float32))
    graphdef, state = nnx.split(tower)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradients(vectors, row, place):
        """Of one row's embedding, and of its hidden state at `place`."""

        def values(vectors):
            tower = nnx.merge(graphdef, state)
            last = tower(vectors, mask).last_hidden
            return jnp.stack(
                [jnp.dot(tower.embed(vectors, mask)[row], weights), last[row, place] @ weights]
            )

        return jnp.abs(jax.jacrev(values)(vectors)).max(axis=-1)

    for row in range(rows):
        valid = np.flatnonzero(mask[row])
        place = valid[len(valid) // 2]
        embedding, middle = np.asarray(gradients(vectors, row, place))
        assert np.isfinite(embedding).all()
        expected = np.zeros_like(mask)
        expected[row] = mask[row]
        np.testing.assert_array_equal(embedding > 0, expected)
        expected[row] = mask[row] & (np.arange(size) <= place)
        np.testing.assert_array_equal(middle > 0, expected)


def test_remat_and_unroll_leave_value_and_gradient(tower, tower_folder):
    ids, mask = token_batch()
    vectors = jnp.asarray(np.asarray(tower.embed_tokens.embedding[...])[ids])

    def run(tower):
        graphdef, state = nnx.split(tower)

        def loss(vectors):
            return jnp.sum(jnp.sin(7 * nnx.merge(graphdef, state).embed(vectors, mask)))

        return jax.jit(jax.value_and_grad(loss)).trace(vectors)

    def load(**options):
        return mrl_jax.load_qwen3(tower_folder, **options)

    plain, both = run(tower), run(load(remat=True, unroll=True))
    value, gradient = plain.lower().compile(QUICK)(vectors)
    other_value, other_gradient = both.lower().compile(QUICK)(vectors)
    assert np.abs(np.asarray(gradient)).max() > 1e-3
    np.testing.assert_allclose(value, other_value, rtol=TOLERANCE)
    assert published.relative_error(other_gradient, gradient) <= TOLERANCE
    # Each option must have reached the stack, or the comparison proves nothing.
    traced = (plain, both, run(load(remat=True)), run(load(unroll=True)))
    assert len({str(program.jaxpr) for program in traced}) == len(traced)


def test_bfloat16_stays_near_float32(tower, tower_folder):
    half = mrl_jax.load_qwen3(tower_folder, dtype=jnp.bfloat16)
    assert {w.dtype for w in param_tree.flat_weights(half).values()} == {jnp.dtype(jnp.bfloat16)}
    ids, mask = token_batch()
    actual, expected = embed(half, ids, mask), embed(tower, ids, mask)
    assert jax.eval_shape(lambda: half(ids, mask).last_hidden).dtype == jnp.bfloat16
    assert actual.dtype == np.float32
    assert (np.sum(actual * expected, axis=-1) >= BFLOAT16_COSINE).all()
    # The computation itself must be in bfloat16, not only its name.
    assert published.relative_error(actual, expected) > TOLERANCE


# --- The config -------------------------------------------------------------------------

TINY = tiny_towers.QWEN3
# field: (another value, what must change with it)
PERTURBATIONS: dict[str, tuple[Any, str]] = {
    "vocab_size": (102, "embed_tokens.embedding"),
    "width": (40, "final_norm.scale"),
    "num_layers": (2, "layers.mlp_norm.scale"),
    "num_heads": (6, "layers.attention.q_proj.kernel"),
    "num_kv_heads": (1, "layers.attention.k_proj.kernel"),
    "head_width": (8, "layers.attention.q_norm.scale"),
    "mlp_width": (56, "layers.mlp.up_proj.kernel"),
    "rope_theta": (1e3, "output"),
    "norm_epsilon": (1e-1, "output"),
    "causal": (False, "output"),
    "pooling": ("mean", "output"),
    "dense": ((DenseConfig(width=8, bias=True, activation="tanh"),), "dense.0.kernel"),
}


@functools.cache
def _shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    return {k: v.shape for k, v in param_tree.flat_weights(abstract_qwen3(config)).items()}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Qwen3Config)])
def test_every_config_field_is_read(tower, field):
    """A field without an entry above fails here, and so does one that nothing reads."""
    assert tower.config == TINY
    value, effect = PERTURBATIONS[field]
    config = dataclasses.replace(TINY, **{field: value})
    if effect != "output":
        assert _shapes(config)[effect] != _shapes(TINY).get(effect)
        return
    assert _shapes(config) == _shapes(TINY)
    ids, mask = token_batch()
    graphdef, _ = nnx.split(param_tree.freeze(abstract_qwen3(config)))
    other = nnx.merge(graphdef, nnx.state(tower))
    assert published.relative_error(embed(other, ids, mask), embed(tower, ids, mask)) > DIFFERS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads is 4, expected a multiple of num_kv_heads, 3"),
        ({"head_width": 15}, "head_width is 15, expected an even number"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)
