"""Conversion and back: every tensor byte for byte, and a report that can be checked."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from published import HUBERT_LARGE, edit_json, save, torch_hubert, torch_qwen3
from safetensors.numpy import load_file, save_file

from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from mrl_jax import load_hubert, load_qwen3
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.nn import param_tree

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
BF16 = np.dtype(ml_dtypes.bfloat16)
Tensors = dict[str, np.ndarray]


def read_tensors(folder: Path) -> Tensors:
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not set(part) & set(tensors)
        tensors |= part
    return tensors


def rewrite(folder: Path, tensors: Tensors) -> Path:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / "model.safetensors"
    )
    return folder


def tied_with_its_head(folder: Path) -> Path:
    """As some fine-tunes are saved: tied, and the output layer in the file all the same."""
    save(torch_qwen3(causal_lm=True), folder)
    tensors = read_tensors(folder)
    assert "lm_head.weight" not in tensors
    return rewrite(folder, tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})


def old_names(folder: Path) -> Path:
    save(torch_hubert(), folder)
    renamed = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in read_tensors(folder).items()
    }
    assert sum("weight_g" in key or "weight_v" in key for key in renamed) == 2
    return rewrite(folder, renamed)


def sharded(folder: Path) -> Path:
    save(torch_qwen3(), folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 3
    return folder


MAKERS: dict[str, tuple[str, str, Callable[[Path], Path]]] = {
    "qwen3": ("qwen3", "Qwen3Model", lambda f: save(torch_qwen3(), f)),
    "qwen3 sharded": ("qwen3", "Qwen3Model", sharded),
    "qwen3 prefixed": ("qwen3", "Qwen3ForCausalLM", lambda f: save(torch_qwen3(causal_lm=True), f)),
    "qwen3 untied": (
        "qwen3",
        "Qwen3ForCausalLM",
        lambda f: save(torch_qwen3(causal_lm=True, tie_word_embeddings=False), f),
    ),
    "qwen3 tied with its head": ("qwen3", "Qwen3ForCausalLM", tied_with_its_head),
    "hubert base": ("hubert", "HubertModel", lambda f: save(torch_hubert(), f)),
    "hubert unmasked": (
        "hubert",
        "HubertModel",
        lambda f: save(torch_hubert(mask_time_prob=0.0), f),
    ),
    "hubert large": ("hubert", "HubertModel", lambda f: save(torch_hubert(**HUBERT_LARGE), f)),
    "hubert ctc": ("hubert", "HubertForCTC", lambda f: save(torch_hubert(ctc=True), f)),
    "hubert old names": ("hubert", "HubertModel", old_names),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints by name, made when first asked for; to be left as they are."""
    root = tmp_path_factory.mktemp("sources")

    def source(name: str) -> Path:
        folder = root / name.replace(" ", "-")
        return folder if folder.exists() else MAKERS[name][2](folder)

    return source


@pytest.fixture(scope="module")
def exports(sources, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Those checkpoints converted and exported again; to be left as they are."""
    root = tmp_path_factory.mktemp("exports")

    def exported(name: str) -> Path:
        place = root / name.replace(" ", "-")
        if not place.exists():
            there_and_back(sources(name), MAKERS[name][0], place)
        return place / "exported"

    return exported


def there_and_back(source: Path, family: str, place: Path, **options: Any) -> tuple[Path, Path]:
    tower, exported = place / "tower", place / "exported"
    convert(str(source), tower, family=family, **options)
    export(tower, exported, shard_bytes=10**9)
    return tower, exported


def assert_same_tensors(actual: Tensors, expected: Tensors) -> None:
    assert set(actual) == set(expected)
    for key, value in expected.items():
        assert actual[key].dtype == value.dtype, key
        assert actual[key].shape == value.shape, key
        assert actual[key].tobytes() == value.tobytes(), key


def test_the_comparison_sees_a_sign_of_zero():
    # Equal as numbers, yet not the same bytes.
    with pytest.raises(AssertionError):
        assert_same_tensors({"a": np.zeros(2)}, {"a": -np.zeros(2)})


@pytest.mark.parametrize("name", MAKERS)
def test_export_gives_back_every_byte(name, sources, exports):
    assert_same_tensors(read_tensors(exports(name)), read_tensors(sources(name)))


def test_the_cases_hold_what_their_names_say(sources):
    """Without the tensors that make a case hard, its round trip would show nothing."""
    keys = {name: set(read_tensors(sources(name))) for name in MAKERS}
    assert "embed_tokens.weight" in keys["qwen3"]
    assert "model.embed_tokens.weight" in keys["qwen3 prefixed"]
    assert "lm_head.weight" not in keys["qwen3 prefixed"]
    assert "lm_head.weight" in keys["qwen3 untied"] & keys["qwen3 tied with its head"]
    assert "masked_spec_embed" in keys["hubert base"] - keys["hubert unmasked"]
    assert {"lm_head.bias", "hubert.masked_spec_embed"} <= keys["hubert ctc"]
    assert "feature_extractor.conv_layers.6.conv.bias" in keys["hubert large"] - keys["hubert base"]


@pytest.mark.parametrize("name", MAKERS)
def test_an_export_loads_strictly_and_computes_the_same(name, sources, exports):
    model_type = getattr(transformers, MAKERS[name][1])
    model, info = model_type.from_pretrained(exports(name), output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], problem
    assert not info.get("error_msgs")
    original = model_type.from_pretrained(sources(name))
    assert torch.equal(output_of(model), output_of(original))


@pytest.mark.parametrize(
    "name", ["qwen3", "qwen3 untied", "hubert base", "hubert large", "hubert ctc"]
)
def test_exported_tensors_are_a_strict_state_dict(name, exports):
    config = transformers.AutoConfig.from_pretrained(exports(name))
    fresh = getattr(transformers, MAKERS[name][1])(config).eval()
    before = output_of(fresh)
    state = {key: torch.from_numpy(value) for key, value in read_tensors(exports(name)).items()}
    fresh.load_state_dict(state, strict=True)
    assert not torch.equal(output_of(fresh), before)
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict(state, strict=True)


def output_of(model: Any) -> Any:
    model.eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        if model.config.model_type == "qwen3":
            return model(torch.arange(7)[None])[0]
        return model(torch.randn((1, 1600), generator=generator))[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["qwen3 untied", "hubert ctc"])
def test_another_dtype_rounds_every_tensor_once(name, dtype, sources, tmp_path):
    source = sources(name)
    tower, exported = there_and_back(source, MAKERS[name][0], tmp_path, dtype=dtype)
    numpy_dtype = {"bfloat16": BF16, "float16": np.dtype(np.float16)}[dtype]
    original = read_tensors(source)
    rounded = {key: value.astype(numpy_dtype) for key, value in original.items()}
    assert_same_tensors(read_tensors(exported), rounded)
    assert any((rounded[k].astype(np.float32) != v).any() for k, v in original.items())
    assert json.loads((tower / "tower.json").read_text())["dtype"] == dtype
    assert json.loads((exported / "config.json").read_text())["dtype"] == dtype


def test_a_bfloat16_checkpoint_stays_one(tmp_path):
    source = save(torch_qwen3().to(torch.bfloat16), tmp_path / "source")
    assert {value.dtype for value in read_tensors(source).values()} == {BF16}
    tower, exported = there_and_back(source, "qwen3", tmp_path)
    assert_same_tensors(read_tensors(exported), read_tensors(source))
    report = json.loads((tower / "report.json").read_text())
    assert (report["dtype"], report["source_dtypes"]) == ("bfloat16", ["bfloat16"])
    # Widened on request, without another value anywhere.
    report = convert(str(source), tmp_path / "wide", family="qwen3", dtype="float32")
    export(tmp_path / "wide", tmp_path / "exported-wide", shard_bytes=10**9)
    widened = {k: v.astype(np.float32) for k, v in read_tensors(source).items()}
    assert_same_tensors(read_tensors(tmp_path / "exported-wide"), widened)


def test_mixed_dtypes_keep_every_value(sources, tmp_path):
    source = shutil.copytree(sources("qwen3"), tmp_path / "source")
    tensors = read_tensors(source)
    for key in ("embed_tokens.weight", "layers.1.mlp.up_proj.weight"):
        tensors[key] = tensors[key].astype(BF16)
    rewrite(source, tensors)
    tower, exported = there_and_back(source, "qwen3", tmp_path)
    report = json.loads((tower / "report.json").read_text())
    assert report["dtype"] == "mixed"
    assert report["source_dtypes"] == ["bfloat16", "float32"]
    # A leaf of its own keeps its dtype; layers of one stack share the wider one.
    expected = {**tensors, "layers.1.mlp.up_proj.weight": tensors["layers.1.mlp.up_proj.weight"]}
    expected["layers.1.mlp.up_proj.weight"] = tensors["layers.1.mlp.up_proj.weight"].astype("f4")
    assert_same_tensors(read_tensors(exported), expected)
    assert load_qwen3(tower).embed_tokens.embedding.dtype == np.float32


def test_an_output_layer_that_is_not_the_tied_one_is_refused(tmp_path):
    source = tied_with_its_head(tmp_path / "source")
    tensors = read_tensors(source)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + np.float32(1e-6)
    rewrite(source, tensors)
    with pytest.raises(MrlError, match=r"lm_head\.weight differs from embed_tokens\.weight"):
        convert(str(source), tmp_path / "tower", family="qwen3")
    edit_json(source / "config.json", tie_word_embeddings=False)
    assert convert(str(source), tmp_path / "tower", family="qwen3")["unused_tensors"] == ["lm_head"]


def test_a_sharded_export_has_a_valid_index(sources, tmp_path, capsys):
    source = sources("hubert ctc")
    convert(str(source), tmp_path / "tower", family="hubert")
    exported = tmp_path / "exported"
    argv = ["export", str(tmp_path / "tower"), str(exported), "--max-shard-gb", "2e-5"]
    assert run_command(main, argv) == 0
    shards = sorted(path.name for path in exported.glob("*.safetensors"))
    assert f"{len(shards)} files" in capsys.readouterr().out
    assert len(shards) > 3
    assert shards[-1] == f"model-{len(shards):05d}-of-{len(shards):05d}.safetensors"
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    sizes = {}
    for shard in shards:
        part = load_file(exported / shard)
        assert {k for k, name in index["weight_map"].items() if name == shard} == set(part)
        sizes[shard] = sum(value.nbytes for value in part.values())
        assert sizes[shard] <= 20_000 or len(part) == 1
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert_same_tensors(read_tensors(exported), read_tensors(source))
    _, info = transformers.HubertForCTC.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"]
    again = convert(str(exported), tmp_path / "again", family="hubert")
    tower = json.loads((tmp_path / "tower" / "report.json").read_text())
    assert again["digest"] == tower["digest"]
    assert again["source_digests"] != tower["source_digests"]


def test_the_report_says_what_went_in_and_what_came_out(sources, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    source = shutil.copytree(sources("qwen3 sharded"), tmp_path / "snapshots" / commit)
    report = convert(str(source), tmp_path / "tower", family="qwen3")
    assert json.loads((tmp_path / "tower" / "report.json").read_text()) == report
    tensors = read_tensors(source)
    assert report["source_digests"] == {
        path.name: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in source.glob("*.safetensors")
    }
    assert report["kind"] == "qwen3"
    assert report["source"] == str(source)
    assert report["revision"] == commit
    assert report["dtype"] == "float32"
    assert report["tensors"] == len(tensors)
    assert report["parameters"] == sum(value.size for value in tensors.values())
    weights = param_tree.flat_weights(load_qwen3(tmp_path / "tower"))
    assert report["leaves"] == len(weights)
    computed = param_tree.digest({f"encoder.{p}": np.asarray(v[...]) for p, v in weights.items()})
    info = read_info(tmp_path / "tower")
    assert info.weights_digest == computed != param_tree.digest({})
    assert report["digest"] == f"sha256:{info.digest}"


def test_passengers_are_counted_apart(sources, tmp_path):
    untied = convert(str(sources("qwen3 untied")), tmp_path / "untied", family="qwen3")
    tied = convert(str(sources("qwen3 prefixed")), tmp_path / "tied", family="qwen3")
    assert (untied["unused_tensors"], tied["unused_tensors"]) == (["lm_head"], [])
    assert untied["parameters"] == tied["parameters"]
    assert untied["tensors"] == tied["tensors"] + 1
    assert tied["revision"] is None
    recogniser = convert(str(sources("hubert ctc")), tmp_path / "ctc", family="hubert")
    plain = convert(str(sources("hubert base")), tmp_path / "base", family="hubert")
    assert recogniser["unused_tensors"] == ["masked_spec_embed"]
    assert recogniser["parameters"] == plain["parameters"] + 32 * 13 + 13
    assert (recogniser["kind"], plain["kind"]) == ("hubert_ctc", "hubert")


def test_tower_json_describes_the_tower(sources, tmp_path):
    convert(str(sources("hubert ctc")), tmp_path / "tower", family="hubert")
    tower = json.loads((tmp_path / "tower" / "tower.json").read_text())
    assert tower["format"] == 1
    assert tower["kind"] == "hubert_ctc"
    assert tower["config"]["width"] == 32
    assert tower["config"]["conv_channels"] == [16] * 7
    assert tower["groups"]["lm_head"] == {"kernel": [32, 13], "bias": [13]}
    assert tower["groups"]["unused_tensors"] == {"masked_spec_embed": [32]}
    assert tower["vocabulary"]["tokens"][5:7] == ["a", "b"]
    assert tower["naming"]["prefix"] == "hubert."
    assert set(os.listdir(tmp_path / "tower" / "weights")) == set(tower["groups"])


def test_small_files_come_along_and_code_never_does(sources, tmp_path):
    source = shutil.copytree(sources("qwen3"), tmp_path / "source")
    small = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"a": "é"}',
        "merges.txt": "#version\nà b\n",
        "spiece.model": "\x00\x01",
        "chat_template.jinja": "{{ x }}",
        "1_Pooling/config.json": '{"pooling_mode_lasttoken": true}',
    }
    never = {
        "modeling_qwen3.py": "raise SystemExit(99)",
        "1_Pooling/modeling.py": "raise SystemExit(99)",
        "training_args.bin": "pickle",
        "optimizer.pt": "pickle",
        "scaler.pkl": "pickle",
        "model.safetensors.index.json.bak": "x",
        "onnx/model.onnx": "x",
    }
    for name, text in (small | never).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text, encoding="utf-8")
    tower, exported = there_and_back(source, "qwen3", tmp_path)
    report = json.loads((tower / "report.json").read_text())
    assert sorted(report["files"]) == sorted([*small, "config.json"])
    for folder in (tower, exported):
        names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert set(small) <= names
        assert not set(never) & names
        for name in small:
            assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert set(os.listdir(exported)) == {
        *(name.split("/")[0] for name in small),
        "config.json",
        "model.safetensors",
    }


def test_a_tower_made_inside_its_checkpoint_copies_nothing_of_itself(sources, tmp_path):
    source = shutil.copytree(sources("qwen3"), tmp_path / "source")
    report = convert(str(source), source / "tower", family="qwen3")
    assert report["files"] == ["config.json", "generation_config.json"][: len(report["files"])]
    assert {p.name for p in (source / "tower").iterdir()} == {
        *report["files"],
        "report.json",
        "tower.json",
        "weights",
    }


def test_two_conversions_are_the_same_and_one_bit_makes_another(sources, tmp_path):
    source = shutil.copytree(sources("hubert base"), tmp_path / "source")
    first = convert(str(source), tmp_path / "a", family="hubert")
    second = convert(str(source), tmp_path / "b", family="hubert")
    assert first["digest"] == second["digest"]
    tensors = read_tensors(source)
    key = "encoder.layers.2.attention.k_proj.bias"
    tensors[key] = tensors[key].copy()
    tensors[key].view(np.uint32)[-1] ^= 1
    rewrite(source, tensors)
    changed = convert(str(source), tmp_path / "c", family="hubert")
    assert changed["digest"] != first["digest"]
    assert changed["source_digests"] != first["source_digests"]


def test_the_order_of_tensors_in_the_file_does_not_matter(sources, tmp_path):
    source = shutil.copytree(sources("qwen3"), tmp_path / "source")
    tensors = read_tensors(source)
    shards = [dict(list(tensors.items())[i::2]) for i in (1, 0)]
    (source / "model.safetensors").unlink()
    for number, shard in enumerate(shards):
        save_file(shard, source / f"part{number}.safetensors")
    weight_map = {k: f"part{i}.safetensors" for i, shard in enumerate(shards) for k in shard}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shuffled = convert(str(source), tmp_path / "a", family="qwen3")
    plain = convert(str(sources("qwen3")), tmp_path / "b", family="qwen3")
    assert shuffled["digest"] == plain["digest"]


# Pickled checkpoints (.bin).


def pickled(source: Path, folder: Path, write: Callable[[dict[str, Any], Path], None]) -> Path:
    folder.mkdir()
    shutil.copyfile(source / "config.json", folder / "config.json")
    write({k: torch.from_numpy(v) for k, v in read_tensors(source).items()}, folder)
    return folder


def one_file(state: dict[str, Any], folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def legacy_format(state: dict[str, Any], folder: Path) -> None:
    # What torch wrote before 1.6: many of the hub's speech models are that old.
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def parameters(state: dict[str, Any], folder: Path) -> None:
    one_file({k: torch.nn.Parameter(v) for k, v in state.items()}, folder)


def transposed_views(state: dict[str, Any], folder: Path) -> None:
    one_file({k: v.T.contiguous().T if v.ndim == 2 else v for k, v in state.items()}, folder)


def shards_and_index(state: dict[str, Any], folder: Path) -> None:
    names = [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]
    weight_map = {key: names[i % 3] for i, key in enumerate(state)}
    for name in names:
        torch.save({k: v for k, v in state.items() if weight_map[k] == name}, folder / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "write", [one_file, legacy_format, parameters, transposed_views, shards_and_index]
)
def test_a_pickled_checkpoint_equals_its_safetensors(write, sources, tmp_path):
    source = sources("hubert base")
    plain = convert(str(source), tmp_path / "plain", family="hubert")
    folder = pickled(source, tmp_path / "pickled", write)
    report = convert(str(folder), tmp_path / "tower", family="hubert")
    assert report["digest"] == plain["digest"]
    assert set(report["source_digests"]) == {path.name for path in folder.glob("*.bin")}


def test_a_pickled_bfloat16_checkpoint_keeps_its_bytes(sources, tmp_path):
    def write(state: dict[str, Any], folder: Path) -> None:
        one_file({k: v.to(torch.bfloat16) for k, v in state.items()}, folder)

    folder = pickled(sources("qwen3"), tmp_path / "pickled", write)
    _, exported = there_and_back(folder, "qwen3", tmp_path)
    rounded = {k: v.astype(BF16) for k, v in read_tensors(sources("qwen3")).items()}
    assert_same_tensors(read_tensors(exported), rounded)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(zipped, sources, tmp_path):
    bomb = Bomb(tmp_path / "hit")

    def write(state: dict[str, Any], folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        state = {**state, "extra": bomb}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)

    folder = pickled(sources("hubert base"), tmp_path / "pickled", write)
    with pytest.raises(MrlError, match=r"pytorch_model\.bin: cannot be read as plain weights"):
        convert(str(folder), tmp_path / "tower", family="hubert")
    assert not bomb.path.exists()
    assert not (tmp_path / "tower").exists()
    # The bomb is live: reading it without care would have run it.
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert bomb.path.exists()


def test_a_bare_pickle_is_refused_and_runs_nothing(sources, tmp_path):
    folder = pickled(sources("qwen3"), tmp_path / "pickled", lambda state, folder: None)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "hit")))
    with pytest.raises(MrlError, match="cannot be read as plain weights"):
        convert(str(folder), tmp_path / "tower", family="qwen3")
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ([torch.zeros(2)], "is not a mapping of tensors"),
        ({"a": 3}, "a is int, expected a float tensor"),
        (
            {"norm.weight": torch.zeros(32, dtype=torch.int8)},
            r"holds weights in 8 bits.*: norm.weight is of dtype I8, expected one of F32",
        ),
    ],
)
def test_a_pickle_of_something_else_is_refused(state, words, sources, tmp_path):
    folder = pickled(sources("qwen3"), tmp_path / "pickled", lambda _, f: one_file(state, f))
    with pytest.raises(MrlError, match=rf"pytorch_model\.bin: {words}"):
        convert(str(folder), tmp_path / "tower", family="qwen3")


def test_a_pickled_checkpoint_without_pytorch_is_one_line(sources, tmp_path):
    folder = pickled(sources("qwen3"), tmp_path / "pickled", one_file)
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from converters.__main__ import main; from mrl_jax.core.cli import run_command\n"
        "sys.exit(run_command(main))"
    )

    def run(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", script, "qwen3", str(source), str(out)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60)

    refused = run(folder, tmp_path / "refused")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    for word in ("error: ", "pytorch_model.bin", "mrl_jax[bin]"):
        assert word in refused.stderr
    assert not (tmp_path / "refused").exists()
    # It is the pickle that is at fault: the same weights in safetensors need no PyTorch.
    converted = run(sources("qwen3"), tmp_path / "tower")
    assert (converted.returncode, converted.stderr) == (0, "")
    assert load_qwen3(tmp_path / "tower").config.width == 32


def test_safetensors_are_preferred_to_a_pickle_beside_them(sources, tmp_path):
    source = shutil.copytree(sources("hubert base"), tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(b"not a pickle")
    report = convert(str(source), tmp_path / "tower", family="hubert")
    assert set(report["source_digests"]) == {"model.safetensors"}
    assert load_hubert(tmp_path / "tower").config.width == 32
