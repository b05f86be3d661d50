"""The measures of the DreamBooth paper (Ruiz et al., 2023), from unit vectors of CLIP."""

from dataclasses import dataclass

MEASURES = ("CLIP-I", "CLIP-T", "PRES", "DIV")


@dataclass(frozen=True)
class Request:
    """A prompt, and the subject's own pictures to compare with: of the same scene, where they are known."""

    prompt: str
    references: list  # indices among the subject's pictures


def mean_cosine(some, others):
    """Mean cosine over all pairs of two sets of unit vectors."""
    return float((some @ others.T).mean())


def mean_cosine_within(rows):
    """Mean cosine over all pairs of different members of one set; None where there is no pair."""
    count = len(rows)
    if count < 2:
        return None
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))


def mean_of_known(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def diversity(groups):
    """Mean distance of two pictures of the same prompt."""
    alike = mean_of_known(mean_cosine_within(group) for group in groups)
    return None if alike is None else 1 - alike


def measure_model(drawn, of_class, subject, wanted, texts):
    """{measure: value} of one model. `drawn` holds for each prompt the unit vectors of its pictures."""
    return {
        "CLIP-I": mean_of_known(mean_cosine(rows, subject[each.references]) for rows, each in zip(drawn, wanted)),
        "CLIP-T": mean_of_known(mean_cosine(rows, text[None]) for rows, text in zip(drawn, texts)),
        "PRES": mean_cosine(of_class, subject) if len(of_class) else None,
        "DIV": diversity(drawn),
    }


def measure_subject(subject, wanted, texts):
    """What the subject's own pictures reach: where a perfect model would end."""
    own = [subject[each.references] for each in wanted]
    return {
        "CLIP-I": mean_of_known(mean_cosine_within(rows) for rows in own),
        "CLIP-T": mean_of_known(mean_cosine(rows, text[None]) for rows, text in zip(own, texts)),
        "PRES": mean_cosine_within(subject),
        "DIV": diversity(own),
    }


def share_gained(before, after, real):
    """The share of the way from the base to the subject's own pictures that was made."""
    if None in (before, after, real) or real == before:
        return None
    return (after - before) / (real - before)
