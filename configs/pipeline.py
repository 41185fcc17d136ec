"""The paper's pipelined baseline: HuBERT with CTC, NLLB from Wolof to French, Qwen3-Embedding.

Command:   ct2-transformers-converter --model facebook/nllb-200-distilled-600M \\
               --copy_files tokenizer.json tokenizer_config.json --output_dir towers/nllb
           python -m converters qwen3 Qwen/Qwen3-Embedding-0.6B towers/text
           python -m converters hubert YOUR-CTC-FOLDER-OR-HUB-ID towers/recogniser
           python train.py --config configs/pipeline.py --workdir runs/pipeline
           python eval.py compare --models pipeline=runs/pipeline NAME=runs/late_fusion/model \\
               --data YOUR-SET --out runs/comparison
Hardware:  any; the translator takes 2.5 GB of memory in float32 (--quantization int8: 0.7 GB).
Duration:  a minute: nothing is trained, the parts are checked and pipeline.json is written.
Expected:  not yet measured here; the paper's own recogniser is not public.
Others:    another recogniser by its transcripts, in a column of the set's queries:
           python train.py --config configs/pipeline.py transcripts=COLUMN
"""

from mrl_jax.inference.cascade_config import CascadeConfig


def get_config() -> CascadeConfig:
    return CascadeConfig(
        name="pipeline",
        text_tower="towers/text",
        recogniser="towers/recogniser",
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
