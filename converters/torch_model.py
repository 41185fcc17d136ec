"""An exported model in PyTorch: two towers of transformers and a trained head between them.

This file is written into exported folders.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .torch_heads import HEADS, PoolingHead
from .torch_speech import normalize_clips, speech_states
from .torch_text import embed_places, unit_length

CHANGES = "change_"
DENSE = "dense_"


class SpeechTextModel(nn.Module):
    """Speech and text to unit vectors [B, dim] in one space, in float32.

    Args:
        speech, text: the towers.
        tensors: of the head (by its own names), of the layers behind the text tower's pooling
            (dense_NUMBER_weight, dense_NUMBER_bias), and low-rank changes of the text tower's
            attention for speech alone (change_NAME_down, change_NAME_up).
        settings: "kind", "padding", "normalize_clips", "dim", "end_token", "text" (see
            `torch_text.embed_places`) and "head", the head's options.
    """

    def __init__(
        self, speech: Any, text: Any, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
    ):
        super().__init__()
        self.settings = dict(settings)
        self.speech, self.text = speech, text
        groups: dict[str, dict[str, Tensor]] = {"": {}, CHANGES: {}, DENSE: {}}
        for name, tensor in tensors.items():
            group = next((key for key in (CHANGES, DENSE) if name.startswith(key)), "")
            groups[group][name.removeprefix(group)] = tensor
        self.head = HEADS[settings["kind"]](groups[""], settings["head"])
        self.changes, self.dense = _Tensors(groups[CHANGES]), _Tensors(groups[DENSE])

    def tensors(self) -> dict[str, Tensor]:
        """What the constructor takes as `tensors`."""
        named = dict(self.head.named_buffers())
        named |= {CHANGES + name: x for name, x in self.changes.named_buffers()}
        return named | {DENSE + name: x for name, x in self.dense.named_buffers()}

    def embed_text(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors of texts from ids [B, L], special tokens included, and their mask."""
        return self._cut(self._read(self._embedded(input_ids), mask.bool()))

    def embed_speech(
        self,
        samples: Tensor,
        lengths: Tensor,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Vectors of clips, and the speech tokens [B] of each that there was no room for.

        Args:
            samples: [B, S] float32, mono at the tower's sample rate, padded with zeros.
            lengths: [B], samples of each.
            prompt_ids, prompt_mask: [B, P], tokens before the speech; not read by a dual encoder.
        """
        if self.settings["normalize_clips"]:
            samples = normalize_clips(samples, lengths)
        masked = self.settings["padding"] == "masked"
        states, mask, last = speech_states(self.speech, samples, lengths if masked else None)
        if isinstance(self.head, PoolingHead):
            vectors = unit_length(self.head(states, mask))
            return self._cut(vectors), torch.zeros_like(lengths)
        tokens, counts, lost = self.head(states, mask, last)
        if not torch.compiler.is_exporting():
            tokens = tokens[:, : int(counts.max())]  # Fewer places for the text tower.
        place = torch.arange(tokens.shape[1], device=tokens.device)
        parts, masks = [tokens], [place[None, :] < counts[:, None]]
        if prompt_ids is not None and prompt_mask is not None:
            parts.insert(0, self._embedded(prompt_ids))
            masks.insert(0, prompt_mask.bool())
        if (end := self.settings["end_token"]) is not None:
            parts.append(self._embedded(torch.full_like(lengths, end, dtype=torch.long)[:, None]))
            masks.append(torch.ones_like(lengths, dtype=torch.bool)[:, None])
        vectors = self._read(torch.cat(parts, 1), torch.cat(masks, 1), speech=True)
        return self._cut(vectors), lost

    def _embedded(self, ids: Tensor) -> Tensor:
        return self.text.get_input_embeddings()(ids)

    def _read(self, vectors: Tensor, mask: Tensor, *, speech: bool = False) -> Tensor:
        named = dict(self.dense.named_buffers())
        dense = [
            (named[f"{number}_weight"], named.get(f"{number}_bias"))
            for number in range(len(self.settings["text"]["activations"]))
        ]
        return embed_places(
            self.text,
            self.settings["text"],
            vectors,
            mask,
            dense=dense,
            changes=dict(self.changes.named_buffers()) if speech else None,
        )

    def _cut(self, vectors: Tensor) -> Tensor:
        return unit_length(vectors[:, : self.settings["dim"]])


class _Tensors(nn.Module):
    """Tensors as buffers, so that they move with the model."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
