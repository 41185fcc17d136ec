"""The worlds by name, and the systems that are compared in each."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from .arabic import write_arabic
from .asterisk import write_asterisk
from .digits import SPEAKERS, write_digits
from .mboshi import write_mboshi

ONE_PART = ("all",)


class Writer(Protocol):
    """Writes a world into an empty folder."""

    def __call__(self, source: Path, out: Path, part: str, *, small: bool) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """One world: its data, and what its trainings change in the files of configs/.

    Attributes:
        title: languages and kind, for tables.
        source: folder of its data among those of --data.
        write: makes one part of it.
        parts: what is trained and measured by itself, as one fold each; the text tower is shared.
        sample_rate: of its speech towers, 8,000 or 16,000.
        text, ctc, head: changed fields of the text stage, of the recogniser, and of every head.
        shared_tokens: whether the recogniser's outputs are the text tower's tokens; else they
            are the characters of its transcripts.
        seeds: of the heads.
        matrix: whether the data have sets of each language against each.
    """

    title: str
    source: str
    write: Writer
    sample_rate: int
    parts: tuple[str, ...] = ONE_PART
    text: tuple[str, ...] = ()
    ctc: tuple[str, ...] = ()
    shared_tokens: bool = False
    head: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    matrix: bool = False


SMALL_TOWER = (
    "model.sizes.width=128",
    "model.sizes.mlp_width=256",
    "model.sizes.num_layers=3",
    "model.sizes.conv_channels=[96,96,96,96]",
    "model.sizes.position_kernel=8",
    "data.batch.batch_size=32",
    "data.batch.num_buckets=3",
)
"""For few words: a tower with a third of the work."""
WORDS = ("model.new.units=words", "model.new.num_layers=2", "train.steps=400")
CHARACTERS = ("model.new.units=characters", "model.new.document_words=true")
"""For a text tower that reads what a recogniser over characters writes."""

DIGITS = World(
    title="strings of English digits, unseen voices",
    source="fsdd",
    write=write_digits,
    sample_rate=8_000,
    parts=SPEAKERS,
    text=WORDS,
    ctc=(*SMALL_TOWER, "train.steps=1600"),
    shared_tokens=True,
    head=("data.batch.num_buckets=3",),
)
WORLDS: Mapping[str, World] = {
    "mboshi": World(
        title="Mboshi sentences, 3 voices",
        source="mboshi",
        write=write_mboshi,
        sample_rate=16_000,
        text=CHARACTERS,
        ctc=("train.steps=3600", "data.batch.batch_size=32"),
    ),
    "digits": DIGITS,
    "arabic": dataclasses.replace(
        DIGITS,
        title="strings of Arabic commands, unseen voices",
        source="arabic_commands",
        write=write_arabic,
        sample_rate=16_000,
        parts=ONE_PART,
    ),
    "asterisk": World(
        title="telephone prompts of five languages",
        source="asterisk",
        write=write_asterisk,
        sample_rate=8_000,
        text=CHARACTERS,
        ctc=("train.steps=6000", "data.batch.batch_size=32"),
        matrix=True,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """One way of joining two towers.

    Attributes:
        changes: fields of the config.
        seeded: whether it is trained with every seed, and not with the first alone.
        cached: whether it is trained on the speech tower's cached states; else the clips are
            changed at each step ("channel").
    """

    changes: tuple[str, ...]
    seeded: bool = True
    cached: bool = True


CTC_INIT = ("model.head_init=ctc",)
SOFT = ("model.head=soft_ctc",)


HEADS: Mapping[str, Head] = {
    "linear": Head(changes=CTC_INIT),
    "regression": Head(changes=(*CTC_INIT, "loss.name=l1_cosine"), seeded=False),
    "dual": Head(changes=("model.kind=dual_encoder", "optim.learning_rate=3e-3"), seeded=False),
    "soft": Head(changes=(*SOFT, "train.steps=0"), seeded=False, cached=False),
    "soft_all": Head(
        changes=(*SOFT, "train.steps=0", "model.compress_blank=none"), seeded=False, cached=False
    ),
    "soft_trained": Head(
        changes=(*SOFT, "model.residual=logits", "model.lora_rank=8", "optim.learning_rate=1e-4"),
        cached=False,
    ),
}
"""Name to what it is: `linear` is the published head; `soft` is not trained, nor is `soft_all`,
which gives 25 speech tokens a second, as the published head does: no frame is dropped."""
CASCADE = "cascade"
SYSTEMS = (*HEADS, CASCADE)
COMPARED_WHEN_DEGRADED = ("linear", "soft", "soft_trained", CASCADE)
SMALL: Mapping[str, tuple[str, ...]] = {
    "text": ("model.new.num_layers=1", "train.steps=2", "data.batch.batch_size=8"),
    "ctc": (
        *("model.sizes.width=32", "model.sizes.mlp_width=32", "model.sizes.num_layers=1"),
        *("model.sizes.conv_channels=[16,16,16,16]", "model.sizes.position_groups=4"),
        *("train.steps=2", "data.batch.batch_size=8", "data.batch.num_buckets=1"),
    ),
    "head": ("data.batch.batch_size=8", "data.batch.num_buckets=1"),
}
"""What --smoke changes: everything runs, nothing learns."""
