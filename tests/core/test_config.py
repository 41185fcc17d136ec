"""Configs from files and from dotted names."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrl_jax.core.config import load_config, override, to_json
from mrl_jax.core.errors import MrlError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    steps: int = 3
    on: bool = False
    name: str = "x"
    dims: tuple[int, ...] = (4, 2)
    shares: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    limit: float | None = 1.0
    kind: Literal["linear", "cosine"] = "linear"
    maybe: Literal["a", "b"] | None = "a"
    label: str | None = None
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    hook: Callable[[int], int] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    seed: int = 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate=3e-4", 3e-4),
        ("rate=2", 2.0),
        ("rate=inf", float("inf")),
        ("limit=-Inf", -float("inf")),
        ("steps=-7", -7),
        ("on=true", True),
        ("on=False", False),
        ("name=3", "3"),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("dims=[64,32]", (64, 32)),
        ("dims=64,32", (64, 32)),
        ("dims=(64,)", (64,)),
        ("dims=64", (64,)),
        ("dims=[]", ()),
        ("shares=[1,0.5]", (1.0, 0.5)),
        ('words=["a","b"]', ("a", "b")),
        ("words=a", ("a",)),
        ("words=[a, b-c]", ("a", "b-c")),
        ("span=[1,2]", (1.0, 2.0)),
        ("limit=none", None),
        ("limit=None", None),
        ("limit=null", None),
        ("limit=2", 2.0),
        ("kind=cosine", "cosine"),
        ("maybe=b", "b"),
        ("maybe=none", None),
        ("label=none", None),
        ("label=12", "12"),
        ("prompts.digits=Find the number.", {"digits": "Find the number."}),
        ("prompts.a.b=c=d", {"a.b": "c=d"}),
        ("prompts.a=none", {"a": "none"}),
        ("prompts.a=12", {"a": "12"}),
        ("rates.a.b=1e-1", {"a.b": 0.1}),
        ("rates.a=2", {"a": 2.0}),
        ("hook=none", None),
    ],
)
def test_values(text, expected):
    value = getattr(
        override(Outer(), [f"inner.{text}"]).inner, text.partition("=")[0].split(".")[0]
    )
    assert value == expected
    assert type(value) is type(expected)


def test_several_and_the_rest_stays():
    before = Outer(inner=Inner(prompts={"a": "b"}))
    after = override(before, ["seed=4", "inner.steps=9", "inner.prompts.c=d", "seed=5"])
    assert (after.seed, after.inner.steps) == (5, 9)
    assert after.inner.prompts == {"a": "b", "c": "d"}
    assert after.inner.rate == before.inner.rate
    assert before == Outer(inner=Inner(prompts={"a": "b"}))
    assert override(before, []) is before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    low: int = 0
    high: int = 1

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise MrlError(f"low is {self.low}, expected less than high, {self.high}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranges:
    a: Range = dataclasses.field(default_factory=Range)
    b: Range = dataclasses.field(default_factory=Range)
    total: int = 2

    def __post_init__(self) -> None:
        if self.a.high + self.b.high != self.total:
            raise MrlError(f"total is {self.total}, expected {self.a.high} + {self.b.high}")


@given(
    st.permutations(["a.low=10", "a.high=20", "b.low=-9", "b.high=-8", "total=12"]),
)
def test_fields_that_are_only_right_together_in_any_order(assignments):
    expected = Ranges(a=Range(low=10, high=20), b=Range(low=-9, high=-8), total=12)
    assert override(Ranges(), assignments) == expected


@given(st.permutations(["a.low=10", "b.low=-9", "b.high=-8", "total=-7"]))
def test_the_result_is_refused_in_any_order(assignments):
    with pytest.raises(MrlError, match="low is 10, expected less than high, 1"):
        override(Ranges(), assignments)


@given(
    st.dictionaries(st.sampled_from(["low", "high"]), st.integers(-5, 5)).flatmap(
        lambda new: st.permutations([f"a.{name}={value}" for name, value in new.items()])
    )
)
def test_overrides_are_one_construction(assignments):
    """The same result, or the same error, as the dataclass gives for all values at once."""
    values = {name[2:]: int(value) for name, value in (text.split("=") for text in assignments)}

    def outcome(make: Callable[[], Range]) -> Range | str:
        try:
            return make()
        except MrlError as error:
            return str(error)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Holder:
        a: Range = dataclasses.field(default_factory=Range)

    assert outcome(lambda: override(Holder(), assignments).a) == outcome(lambda: Range(**values))


def test_the_order_of_the_speech_stages_overrides():
    from mrl_jax.training.contrastive.config import ExperimentConfig

    config = ExperimentConfig(name="x")
    texts = ["model.nested=true", "model.kind=dual_encoder"]
    assert override(config, texts) == override(config, texts[::-1])
    assert override(config, texts).model.nested


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeed=1", "no field 'seeed'. Did you mean seed?"),
        ("iner.rate=1", "no field 'iner.rate'. Did you mean inner?"),
        ("inner.rte=1", "no field 'inner.rte'. Did you mean rate?"),
        ("inner.zzzzzz=1", "Expected one of rate, steps, on"),
        ("inner=1", "'inner' is a group of fields. Name one of rate, steps"),
        ("inner.rate.x=1", "'inner.rate.x' goes deeper than the config does"),
        ("seed", "'seed' is no option and no assignment"),
        ("seed=1.5", "seed is '1.5', expected a whole number"),
        ("seed=true", "seed is 'true', expected a whole number"),
        ("seed=x", "seed is 'x', expected a whole number"),
        ("seed=none", "seed is 'none', expected a whole number"),
        ("inner.on=1", "inner.on is '1', expected true or false"),
        ("inner.rate=fast", "inner.rate is 'fast', expected a number"),
        ("inner.limit=x", "inner.limit is 'x', expected a number or none"),
        ("inner.dims=[1,2.5]", "inner.dims is '[1,2.5]', expected a list, each a whole number"),
        ("inner.dims=a", "inner.dims is 'a', expected a list, each a whole number"),
        ("inner.span=[1,2,3]", "inner.span is '[1,2,3]', expected a list of 2, each a number"),
        ("inner.kind=cosin", "'cosin', expected one of linear, cosine. Did you mean cosine?"),
        ("inner.kind=zzz", "'zzz', expected one of linear, cosine"),
        ("inner.hook=print", "inner.hook is 'print', expected Callable"),
        ("inner.rates.a.b=fast", "inner.rates.a.b is 'fast', expected a number"),
        ("inner.rates.a=none", "inner.rates.a is 'none', expected a number"),
        (
            "inner.rates=0.1",
            "inner.rates is '0.1', expected values by name. Write inner.rates.NAME=0.1",
        ),
        (
            "inner.prompts=x",
            "inner.prompts is 'x', expected values by name. Write inner.prompts.NAME=x",
        ),
    ],
)
def test_assignments_that_do_not_fit(text, words):
    with pytest.raises(MrlError) as caught:
        override(Outer(), [text])
    assert words in str(caught.value)
    assert "Choose one" not in str(caught.value)


@pytest.mark.parametrize("stage", ["speech", "text"])
def test_the_real_configs_fields_can_be_set(stage):
    """Every field of the experiment takes its own default back from text."""
    from mrl_jax.training.contrastive.config import ExperimentConfig
    from mrl_jax.training.text_tower.config import (
        NewTowerConfig,
        TextModelConfig,
        TextStageExperiment,
    )

    config: Any = ExperimentConfig(name="x")
    if stage == "text":
        config = TextStageExperiment(name="x", model=TextModelConfig(new=NewTowerConfig()))

    def walk(node: Any, prefix: str) -> None:
        for field in dataclasses.fields(node):
            value, name = getattr(node, field.name), f"{prefix}{field.name}"
            if dataclasses.is_dataclass(value):
                walk(value, f"{name}.")
            elif not isinstance(value, Mapping):
                assert override(config, [f"{name}={value}"]) == config, name

    walk(config, "")


def test_an_optional_group_can_be_left_out():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Choice:
        inner: Inner | None = dataclasses.field(default_factory=Inner)

    assert override(Choice(), ["inner=none"]).inner is None
    changed = override(Choice(), ["inner.steps=5"]).inner
    assert changed is not None
    assert changed.steps == 5
    for texts in (["inner=none", "inner.steps=5"], ["inner.steps=5", "inner=none"]):
        with pytest.raises(MrlError, match="contradicts another assignment"):
            override(Choice(), texts)
    with pytest.raises(MrlError, match=r"^inner is none\. Set inner in a config file first"):
        override(Choice(inner=None), ["inner.steps=5"])
    for config, text in ((Choice(), "inner=3"), (Outer(), "inner=none")):
        with pytest.raises(MrlError, match="'inner' is a group of fields"):
            override(config, [text])


def write(path, body):
    path.write_text(body)
    return path


def test_a_config_from_a_file(tmp_path):
    body = "seed = 7\ndef get_config():\n    return dict(seed=seed)\n"
    assert load_config(write(tmp_path / "a.py", body), dict) == {"seed": 7}
    with pytest.raises(MrlError, match=r"a\.py: get_config\(\) returns dict, expected Outer"):
        load_config(tmp_path / "a.py", Outer)
    with pytest.raises(MrlError, match=r"^mine: get_config\(\) returns dict, expected Outer"):
        load_config(tmp_path / "a.py", Outer, where="mine")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = 1\n", r"has no get_config\(\)\. Define one that returns Outer"),
        ("def get_config(:\n", "the config fails: SyntaxError"),
        ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import nothing_like_this\n", "ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "the config fails: SystemExit: 3"),
        ("def get_config():\n    return None\n", "returns NoneType, expected Outer"),
    ],
)
def test_files_that_fail(tmp_path, body, words):
    with pytest.raises(MrlError, match=words) as caught:
        load_config(write(tmp_path / "a.py", body), Outer)
    assert str(tmp_path / "a.py") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("OptimConfig(learning_rate=-1.0)", "{}: optim.learning_rate is -1.0, expected above 0"),
        (
            "variant('late_fusion', ExperimentConfig, 'nme=x')",
            "{}: the config has no field 'nme'. Did you mean name?",
        ),
        (
            "variant('late_fusio', object)",
            "{}: 'late_fusio' is no preset. Did you mean late_fusion?",
        ),
        (
            "variant('demo_cascade', ExperimentConfig)",
            "demo_cascade: get_config() returns CascadeConfig, expected ExperimentConfig",
        ),
    ],
)
def test_our_own_errors_name_the_file(call, message, tmp_path):
    body = (
        "from mrl_jax.core.presets import variant\n"
        "from mrl_jax.training.contrastive.config import ExperimentConfig\n"
        "from mrl_jax.training.optim import OptimConfig\n"
        f"def get_config():\n    return {call}\n"
    )
    with pytest.raises(MrlError) as caught:
        load_config(write(tmp_path / "a.py", body), Outer)
    assert str(caught.value) == message.format(tmp_path / "a.py")


def test_to_json():
    values = to_json(override(Outer(), ["inner.prompts.a=b", "inner.limit=none"]))
    assert json.loads(json.dumps(values)) == values
    assert values["inner"]["dims"] == [4, 2]
    assert values["inner"]["prompts"] == {"a": "b"}
    assert values["inner"]["limit"] is None
    assert isinstance(to_json(Outer(inner=Inner(hook=abs)))["inner"]["hook"], str)
