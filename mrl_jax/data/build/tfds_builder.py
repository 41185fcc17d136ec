"""The TFDS builder that writes recordings to ArrayRecord, in order, without TensorFlow.

Importing this module imports TFDS; `builder.py` does so when it has something to build.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

Records = Iterable[tuple[str, bytes]]
SHARD = 4096
"""Records in a file, at most."""

_BATCH = 64
"""Records handed over at a time; TFDS writes its own notes after each time."""


def open_records(folder: Path, split: str) -> Any:
    """Random access to the records of a split in a folder that was built here.

    Their features are those of this builder, whatever the folder says of them.

    Raises:
        Exception: TFDS's or ArrayRecord's own, at damaged files.
    """
    place = folder / SpeechDataBuilder.name / str(SpeechDataBuilder.VERSION)
    if not (place / "dataset_info.json").is_file():
        raise FileNotFoundError(f"{place} has no dataset_info.json")
    builder: Any = SpeechDataBuilder(clips={}, data_dir=folder)
    return builder.as_data_source(split=split)


class SpeechDataBuilder(tfds.core.GeneratorBasedBuilder):
    """Records of `id` and FLAC bytes; a split's records keep the order they came in.

    Args:
        clips: the records of each split, as (id, FLAC bytes).
        data_dir: the records go to `speech_data/1.0.0` in it.
        shard: records in a file, at most.
    """

    name = "speech_data"
    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. Looking for the list, TFDS 4.9.10 imports importlib_resources,
    # which it does not require.
    url_infos = None

    def __init__(self, *, clips: Mapping[str, Records], data_dir: Path, shard: int = SHARD):
        self._clips, self._shard = clips, shard
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        # FLAC as text: features.Audio would need TensorFlow.
        features = {"id": tfds.features.Text(), "flac": tfds.features.Text()}
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._clips}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (name, flac) in enumerate(self._clips[split]):
            yield index, {"id": name, "flac": flac}

    def _generate_splits(self, dl_manager: Any, download_config: Any) -> list[Any]:
        """Write as the examples come.

        TFDS's own way gathers a split first, in memory to 1 GB, and past that in files
        which it opens with TensorFlow.
        """
        info = self._info()  # Of the folder being filled; `self.info` has its later name.
        writer = tfds.core.SequentialWriter(
            info, max_examples_per_shard=self._shard, file_format="array_record"
        )
        for split, examples in self._split_generators(dl_manager).items():
            writer.initialize_splits([split])
            while batch := [example for _, example in itertools.islice(examples, _BATCH)]:
                writer.add_examples({split: batch})
            writer.close_splits([split])
        return list(info.splits.values())
