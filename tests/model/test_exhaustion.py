"""What counts as our own trouble: shown by a kernel that has no descriptor left to give."""

import os

import pytest
from tests.descriptors import no_descriptor_left

from robin.model.exhaustion import EXHAUSTED


def test_a_process_without_descriptors_is_exhausted_and_a_missing_file_is_not() -> None:
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files") as refused:
        os.open("/dev/null", os.O_RDONLY)
    assert refused.value.errno in EXHAUSTED
    with pytest.raises(FileNotFoundError) as missing:
        os.open("/nowhere/at/all", os.O_RDONLY)
    assert missing.value.errno not in EXHAUSTED
