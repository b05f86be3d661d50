"""Which of a test's variants every run of the suite has; --slow has all of them."""

import pytest


def mostly_slow(variants, quick=1):
    """Mark all variants but the first ones as slow: they go another way through the same code."""
    return [
        each if number < quick else pytest.param(each, marks=pytest.mark.slow) for number, each in enumerate(variants)
    ]
