"""Late fusion in PyTorch, written from its description (arXiv 2602.19991, section 3).

The oracle of the parity tests: transformers' towers, called without any mask, and torch's
own layers between them. It shares no code with `mrl_jax`.
"""

from typing import Any

import numpy as np
import pytest
from published import torch_hubert, torch_qwen3

CONVS = {
    # Three convolutions instead of seven: XLA compiles the tests' models in half the time.
    "conv_dim": (16,) * 3,
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
}


class TorchFusion:
    """The published architecture over tiny towers of random weights.

    Attributes:
        speech: HubertForCTC (or HubertModel), text: Qwen3Model.
        projection: frames of all layers side by side to the text tower's width.
        conv: two frames to one speech token.
    """

    def __init__(self, *, ctc: bool = True, **speech: Any):
        torch = pytest.importorskip("torch")
        self.speech = torch_hubert(1, ctc=ctc, **{**CONVS, **speech})
        self.text = torch_qwen3(2)
        frames = self.speech.config.num_hidden_layers * self.speech.config.hidden_size
        width = self.text.config.hidden_size
        generator = torch.Generator().manual_seed(3)

        def noise(*shape: int) -> Any:
            return torch.nn.Parameter(torch.randn(shape, generator=generator), requires_grad=False)

        self.projection = torch.nn.Linear(frames, width, bias=False)
        self.projection.weight = noise(width, frames)
        self.conv = torch.nn.Conv1d(width, width, kernel_size=2, stride=2)
        self.conv.weight, self.conv.bias = noise(width, width, 2), noise(width)
        # Speech tokens of the size of token embeddings, so that neither drowns the other.
        self.projection.weight /= frames**0.5
        self.conv.weight /= (2 * width) ** 0.5

    def embed(
        self, samples: np.ndarray, prompt: list[int] | None = None, end_token: int | None = None
    ) -> np.ndarray:
        """Unit-length embeddings [B, E] of clips [B, S], all of it read as speech."""
        import torch

        with torch.no_grad():
            hubert = getattr(self.speech, "hubert", self.speech)
            states = hubert(torch.from_numpy(samples), output_hidden_states=True).hidden_states
            frames = self.projection(torch.cat(states[1:], dim=-1))
            parts = [self.conv(frames.transpose(1, 2)).transpose(1, 2)]
            if prompt:
                parts.insert(0, self._tokens(prompt, len(samples)))
            if end_token is not None:
                parts.append(self._tokens([end_token], len(samples)))
            output = self.text(inputs_embeds=torch.cat(parts, dim=1))
            pooled = output.last_hidden_state[:, -1]
            return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    def _tokens(self, ids: list[int], rows: int) -> Any:
        import torch

        return self.text.get_input_embeddings()(torch.tensor([ids] * rows))
