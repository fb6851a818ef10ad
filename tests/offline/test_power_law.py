import numpy as np
import pytest

from offline.power_law import fit, r_squared

SIZES = np.array([25e3, 100e3, 400e3, 900e3, 1.6e6])


@pytest.mark.parametrize(("x0", "exponent", "offset"), [(5e5, 0.5, 1.8), (2e4, 0.2, 0.0), (1e6, 1.3, 0.7)])
def test_a_law_is_found_again(x0, exponent, offset):
    values = (x0 / SIZES) ** exponent + offset
    law = fit(SIZES, values)
    assert (law.x0, law.exponent, law.offset) == pytest.approx((x0, exponent, offset), rel=0.02, abs=0.02)
    assert r_squared(law, SIZES, values) > 0.99999
    assert law.at(np.array([1e7]))[0] == pytest.approx((x0 / 1e7) ** exponent + offset, rel=0.01)


def test_what_grows_is_no_such_law():
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    law = fit(SIZES, values)
    assert law.offset == pytest.approx(3.0, abs=0.5)
    assert r_squared(law, SIZES, values) < 0.1


def test_three_parameters_need_three_sizes():
    with pytest.raises(ValueError, match="at least 3 different sizes, not 2"):
        fit(np.array([1.0, 2.0, 2.0]), np.ones(3))
