"""A proposal to MTEB: FLEURS across languages, from Wolof speech to French sentences.

MTEB's own tasks of FLEURS pair a recording with its transcript, in one language. Here the answer
is the sentence's translation, which FLEURS has under the same id. Nothing of `mrl_jax` is needed
by it. `docs/integrations/mteb.md` says how it is run.
"""

from collections import Counter
from typing import Any

from mrl_jax.core.extras import optional_imports

with optional_imports("mrl_jax.integrations.mteb_fleurs"):
    import datasets
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

PAIRS = {"wo_sn-fr_fr": ["wol-Latn", "fra-Latn"]}
"""Subset, the languages of queries and documents in FLEURS's codes: both in MTEB's codes."""
CITATION = r"""
@inproceedings{conneau2023fleurs,
  author = {Conneau, Alexis and Ma, Min and Khanuja, Simran and Zhang, Yu and Axelrod, Vera and
            Dalmia, Siddharth and Riesa, Jason and Rivera, Clara and Bapna, Ankur},
  booktitle = {2022 IEEE Spoken Language Technology Workshop (SLT)},
  pages = {798--805},
  title = {{FLEURS}: Few-Shot Learning Evaluation of Universal Representations of Speech},
  year = {2023},
}
"""


class FleursCrosslingualA2TRetrieval(AbsTaskRetrieval):
    """Recordings of one language, and the sentences of another, of which one is a translation.

    Attributes:
        text_column: of FLEURS, that documents are made of: the sentence as it was written, or
            `transcription`, without case and punctuation.
    """

    text_column: str = "raw_transcription"
    metadata = TaskMetadata(
        name="FleursCrosslingualA2TRetrieval",
        description="Spoken sentences and their translations as text, both of FLEURS: find the "
        "French sentence that a Wolof recording says.",
        reference="https://github.com/google-research-datasets/fleurs",
        dataset={
            "path": "mteb/fleurs",
            "revision": "cadac46d4cd7d721f5cf8844a5b9f0f20e6fcde8",
        },
        type="Any2AnyRetrieval",
        category="a2t",
        modalities=["audio", "text"],
        eval_splits=["test"],
        eval_langs=PAIRS,
        main_score="ndcg_at_10",
        date=("2021-01-01", "2022-05-25"),
        domains=["Spoken", "Encyclopaedic"],
        task_subtypes=["Speech Retrieval"],
        license="cc-by-4.0",
        annotations_creators="human-annotated",
        dialect=[],
        sample_creation="found",
        bibtex_citation=CITATION,
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Both languages of each pair."""
        if self.data_loaded:
            return
        self.dataset = {}
        for pair in self.hf_subsets:
            sides = [self._language(code) for code in pair.split("-")]
            self.dataset[pair] = {
                split: across_languages(*(side[split] for side in sides), text=self.text_column)
                for split in self.eval_splits
            }
        self.data_loaded = True

    def _language(self, code: str) -> Any:
        place = self.metadata.dataset
        return datasets.load_dataset(place["path"], code, revision=place["revision"])


def across_languages(source: Any, target: Any, *, text: str) -> Any:
    """Queries, corpus and judgements of one split, as MTEB's `RetrievalSplitData`.

    Args:
        source, target: a `datasets.Dataset` of each language.
        text: column of the documents' text. Sentences of the same text are one document.
    """
    sentences = dict(zip(map(str, target["id"]), target[text], strict=True))
    numbers = [str(number) for number in source["id"]]
    rows = [row for row, number in enumerate(numbers) if number in sentences]
    spoken = {numbers[row] for row in rows}
    first: dict[str, str] = {}  # Text: the first sentence that has it.
    for number, words in sentences.items():
        if number in spoken:
            first.setdefault(words.strip(), number)
    takes: Counter[str] = Counter()
    names = []
    for number in numbers:
        names.append(f"{number}-{takes[number]}")
        takes[number] += 1
    # The column comes before the choice of rows, which would copy the recordings otherwise.
    queries = source.select_columns(["audio"]).add_column("id", names).select(rows)
    corpus = datasets.Dataset.from_dict({"id": [*first.values()], "text": [*first]})
    judged = {names[row]: {first[sentences[numbers[row]].strip()]: 1} for row in rows}
    return {"queries": queries, "corpus": corpus, "relevant_docs": judged, "top_ranked": None}
