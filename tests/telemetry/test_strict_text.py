"""The strict reader refuses what a linter refuses: without that, the tests that use it would prove nothing."""

import pytest
from tests.telemetry.strict_text import read_strictly

GOOD = "# HELP a_total A.\n# TYPE a_total counter\n" + 'a_total{x="1"} 2.0\n'


def test_a_good_exposition_is_read():
    family = read_strictly(GOOD)["a_total"]
    assert (family.kind, family.text) == ("counter", "A.")
    assert family.samples == {("a_total", frozenset({("x", "1")})): 2.0}


@pytest.mark.parametrize(
    "text",
    [
        GOOD + 'a_total{x="1"} 3.0\n',
        GOOD + "# HELP a_total A.\n",
        GOOD.rstrip(),
        GOOD.replace("counter", "gauge"),
        GOOD.replace("a_total", "a"),
        GOOD.replace("# HELP a_total A.\n", ""),
        GOOD.replace("# TYPE a_total counter\n", ""),
        GOOD.replace(" A.", " "),
        GOOD.replace("a_total", "a_ms_total"),
        GOOD.replace('"1"', '"1'),
        GOOD.replace('x="1"', 'x="1",x="2"'),
        GOOD.replace("2.0", "two"),
        GOOD.replace("2.0", "-2.0"),
        GOOD.replace('a_total{x="1"}', 'b_total{x="1"}'),
        '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1.0"} 1\nh_count 1\nh_sum 1\n',
        '# HELP h H.\n# TYPE h histogram\nh_bucket{le="1.0"} 2\nh_bucket{le="+Inf"} 1\nh_count 1\nh_sum 1\n',
        '# HELP h H.\n# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_count 2\nh_sum 1\n',
        '# HELP h H.\n# TYPE h histogram\nh_bucket{le="+Inf"} 1\nh_count 1\n',
    ],
)
def test_a_bad_exposition_is_refused(text: str):
    with pytest.raises((AssertionError, KeyError, ValueError)):
        read_strictly(text)
