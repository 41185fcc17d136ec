"""The paper's cascade baseline: HuBERT with CTC, NLLB from Wolof to French, Qwen3-Embedding.

Command:   pip install '.[cascade,verify]'   (CTranslate2, and PyTorch to convert NLLB)
           ct2-transformers-converter --model facebook/nllb-200-distilled-600M \\
               --copy_files tokenizer.json tokenizer_config.json --output_dir towers/nllb
           mrl-jax convert qwen3 Qwen/Qwen3-Embedding-0.6B towers/text
           mrl-jax train --config ctc data.train=YOUR-MANIFEST.jsonl
           mrl-jax cascade --config cascade --out runs/cascade
           mrl-jax eval compare --models cascade=runs/cascade fusion=runs/mine \\
               --data YOUR-SET --out runs/comparison
Hardware:  any; the translator takes 2.5 GB of memory in float32 (--quantization int8: 0.7 GB).
Duration:  a minute: nothing is trained, the parts are checked and cascade.json is written.
Expected:  not yet measured here; the paper's own recogniser is not public.
Others:    another pair of languages, by NLLB's codes: source_language=swh_Latn
           target_language=eng_Latn; a tuned text tower: text_tower=runs/text_stage/tower;
           a published recogniser, converted by mrl-jax convert hubert: recogniser=FOLDER;
           transcripts of any other, in a column of the set's queries: transcripts=COLUMN
"""

from mrl_jax.inference.cascade_config import CascadeConfig


def get_config() -> CascadeConfig:
    return CascadeConfig(
        name="cascade",
        text_tower="towers/text",
        recogniser="runs/ctc/tower",
        translator="towers/nllb",
        source_language="wol_Latn",
        target_language="fra_Latn",
        dims=(1024, 512, 256, 128),
        prompts={  # Those of the text stage: its queries are texts as well.
            "translation": "Given a sentence, retrieve its translation",
            "transcription": "Given a sentence, retrieve its transcription",
            "retrieval": "Given a question, retrieve the text that answers it",
        },
    )
