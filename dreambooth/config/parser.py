"""From a command line to a Config: the parser is made from the dataclass's fields, in the groups that they name."""

import argparse
import dataclasses

from dreambooth.config.config import Config
from dreambooth.system.errors import BadInput


class Parser(argparse.ArgumentParser):
    """argparse, but an error is an exception with one line, and no flag may be shortened."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        raise BadInput(message)


def parser_of(config_class, description):
    """Make the parser from the dataclass's fields, in the groups that they name."""
    parser = Parser(description=description, usage="python train_dreambooth.py FLAGS, or the same under the launcher")
    groups = {}
    for each in dataclasses.fields(config_class):
        meta = each.metadata
        if meta["group"] not in groups:
            groups[meta["group"]] = parser.add_argument_group(meta["group"])
        group = groups[meta["group"]]
        options = [f"--{each.name}", *meta["aliases"]]
        if isinstance(each.default, bool):
            group.add_argument(*options, action="store_true", default=each.default, help=meta["help"])
            if each.default:
                group.add_argument(f"--no_{each.name}", dest=each.name, action="store_false", help=f"not --{each.name}")
            continue
        settings = dict(meta["parser"])
        settings.setdefault("type", str if each.default is None else type(each.default))
        shown = "" if each.default is None else f" (default: {each.default})"
        metavar = {int: "N", float: "X"}.get(settings["type"], "TEXT")
        if "choices" not in settings:
            settings["metavar"] = metavar
        group.add_argument(*options, dest=each.name, default=each.default, help=meta["help"] + shown, **settings)
    return parser


def read_config(argv, description):
    """The run's Config from a command line."""
    values = vars(parser_of(Config, description).parse_args(argv))
    if values["validation_prompt"]:
        values["validation_prompt"] = tuple(values["validation_prompt"])
    return Config(**values)
