"""The dual encoder in PyTorch, written from its description (arXiv 2602.19991).

The oracle of the parity tests: transformers' speech tower, torch's own attention and
linear layers. It shares no code with `mrl_jax`.
"""

from typing import Any

import numpy as np
import pytest


class TorchDual:
    """A speech tower, a random query over its frames, a random layer a width.

    Attributes:
        speech: HubertModel.
        query: what attends over the frames.
        linears: one a width.
    """

    def __init__(self, speech: Any, widths: tuple[int, ...]):
        torch = pytest.importorskip("torch")
        self.speech = speech
        frames = self.speech.config.num_hidden_layers * self.speech.config.hidden_size
        generator = torch.Generator().manual_seed(3)
        self.query = torch.randn(frames, generator=generator)
        self.linears = {}
        for width in widths:
            linear = torch.nn.Linear(frames, width)
            with torch.no_grad():
                linear.weight.copy_(torch.randn(width, frames, generator=generator))
                linear.bias.copy_(torch.randn(width, generator=generator))
            self.linears[width] = linear

    def embed(self, clip: np.ndarray) -> dict[int, np.ndarray]:
        """Unit vectors [width] of one clip [S], by width."""
        import torch

        with torch.no_grad():
            states = self.speech(torch.from_numpy(clip)[None], output_hidden_states=True)
            frames = torch.cat(states.hidden_states[1:], dim=-1)
            pooled = torch.nn.functional.scaled_dot_product_attention(
                self.query[None, None], frames, frames
            )[0, 0]
            return {
                width: torch.nn.functional.normalize(linear(pooled), dim=0).numpy()
                for width, linear in self.linears.items()
            }

    def fill(self, head: Any) -> None:
        """Put these weights into a head of ours."""
        import jax.numpy as jnp

        head.pool_query[...] = jnp.asarray(self.query.numpy())
        for width, linear in self.linears.items():
            ours = head.projections[f"to_{width}"]
            ours.kernel[...] = jnp.asarray(linear.weight.detach().numpy().T)
            ours.bias[...] = jnp.asarray(linear.bias.detach().numpy())
