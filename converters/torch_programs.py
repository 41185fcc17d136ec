"""What is exported to ONNX: the PyTorch model's two functions as modules of tensors alone."""

from torch import Tensor, nn

from .torch_model import SpeechTextModel


class SpeechProgram(nn.Module):
    """Samples and their lengths, and token ids of a prompt, to vectors.

    Args:
        model: the model.
        counts_lost: also give the speech tokens that there was no room for.
    """

    def __init__(self, model: SpeechTextModel, *, counts_lost: bool):
        super().__init__()
        self.model = model
        self.counts_lost = counts_lost

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        vectors, lost = self.model.embed_speech(samples, lengths, prompt_ids, prompt_mask)
        return (vectors, lost) if self.counts_lost else (vectors,)


class TextProgram(nn.Module):
    """Token ids and their mask to vectors."""

    def __init__(self, model: SpeechTextModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        return (self.model.embed_text(input_ids, attention_mask),)
