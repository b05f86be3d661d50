"""A field of the settings that is also a flag, and the bounds of its number."""

import math
from dataclasses import field

from dreambooth.system.errors import BadInput


def flag(group, help, default=None, *, course=False, least=None, above=None, below=None, aliases=(), **parser):
    """A field that is also a flag. `course` marks what a resumed run may not change without saying so;
    `least`, `above` and `below` bound a number."""
    metadata = dict(
        group=group, help=help, course=course, least=least, above=above, below=below, aliases=aliases, parser=parser
    )
    return field(default=default, metadata=metadata)


def check_number(each, value):
    """Refuse a number outside of its flag's bounds, and NaN and infinity for every flag."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    least, above, below = (each.metadata[bound] for bound in ("least", "above", "below"))
    if not math.isfinite(value):
        raise BadInput(f"--{each.name} {value}: must be a finite number")
    if least is not None and value < least:
        raise BadInput(f"--{each.name} {value}: must be at least {least}")
    if above is not None and value <= above:
        raise BadInput(f"--{each.name} {value}: must be more than {above}")
    if below is not None and value >= below:
        raise BadInput(f"--{each.name} {value}: must be less than {below}")
