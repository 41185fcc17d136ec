"""What the commands take for a trained model, without importing what loads one."""

from pathlib import Path

MODEL_HELP = "folder of a trained model, or its name on the hub: OWNER/NAME or OWNER/NAME@REVISION"
MOVED_HELP = "its model, where that was moved: a folder, or a name on the hub"


def model_option(text: str) -> Path:
    """The folder of a model by its name; see `hub_models.model_folder`.

    Raises:
        MrlError: as there.
    """
    from mrl_jax.inference.hub_models import model_folder

    return model_folder(text)
