"""The README.md of a folder of exported programs."""

from .portable_parts import SETTINGS, Portable

RUN = {
    "onnx": """```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("speech.onnx")
lengths = np.array([len(clip) for clip in clips])
samples = np.zeros((len(clips), lengths.max()), np.float32)
for row, clip in enumerate(clips):
    samples[row, : len(clip)] = clip
inputs = {"samples": samples, "lengths": lengths}
if any(one.name == "prompt_ids" for one in session.get_inputs()):  # Without a prompt.
    inputs["prompt_ids"] = np.zeros((len(clips), 1), np.int64)
    inputs["prompt_mask"] = np.zeros((len(clips), 1), np.bool_)
vectors = session.run(["vectors"], inputs)[0]
```""",
    "stablehlo": """```python
import json
from pathlib import Path

import jax
import jax.export
import numpy as np

settings = json.loads(Path("mrl_jax_export.json").read_text(encoding="utf-8"))
with np.load(settings["weights"]) as arrays:
    weights = jax.device_put(dict(arrays))
name, program = next((n, p) for n, p in settings["programs"].items() if n.startswith("speech"))
run = jax.export.deserialize(Path(name).read_bytes()).call
shapes = {key: one["shape"][1:] for key, one in program["inputs"].items()}
lengths = np.array([len(clip) for clip in clips], np.int32)
samples = np.zeros((len(clips), *shapes["samples"]), np.float32)
for row, clip in enumerate(clips):
    samples[row, : len(clip)] = clip
prompt = []
if "prompt_ids" in shapes:  # Without a prompt.
    prompt = [np.zeros((len(clips), *shapes["prompt_ids"]), kind) for kind in (np.int32, np.bool_)]
vectors = run(weights, samples, lengths, *prompt)[0]
```""",
}
"""How a program of each form is run on `clips`, float32 arrays at the model's sample rate."""


LOST = """
- A clip above 0 in the second output, `lost_tokens`, has more speech tokens than there is room for:
  its vector leaves out its end."""


def program_readme(portable: Portable, form: str) -> str:
    """What a program of the folder takes, and an example."""
    settings = portable.settings(form)
    lost = LOST if portable.counts_lost else ""
    return f"""# Embeddings of speech and text, {portable.dim} coordinates

Programs exported from mrl_jax, model {portable.info.digest[:12]}. `{SETTINGS}` lists the inputs
and outputs of each, the prompts by task, and the special tokens.

- **Speech**: mono samples at {settings["sample_rate"]} Hz, from -1 to 1, as they are: each clip is
  normalised and masked inside the program. Recordings at another rate are resampled before.
- **Text**: token ids of `tokenizer.json` without special tokens, cut to `tokens.max_tokens`
  with those around it (at its beginning where `tokens.keeps_tail`), between `tokens.prefix` and
  `tokens.suffix`, or `tokens.empty` where all of that is nothing; a document stands after
  `document_prompt`, a query after its prompt.
- **Prompts** of speech: token ids of the prompt, without special tokens.
- Vectors have unit length. Prefixes of `trained_dims` coordinates, at unit length again, are
  embeddings too, unless the model is a dual encoder with separate dims.{lost}

{RUN[form]}
"""
