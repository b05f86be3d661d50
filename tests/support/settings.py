"""Training settings without a command line."""

from dreambooth.config.config import Config


def small_config(**changes):
    """The settings of a run, all but the required ones at their defaults."""
    required = dict(
        pretrained_model_name_or_path="model",
        instance_data_dir="pictures",
        instance_prompt="a photo of sks dog",
    )
    return Config.from_flat(**{**required, **changes})


def changed(config, **changes):
    """The same settings but for some."""
    return Config.from_flat(**{**config.flat(), **changes})
