"""Which frames of a video are looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.media.sampling import frame_indices

TOTALS = st.integers(0, 10**9)
COUNTS = st.integers(1, 2000)


@given(TOTALS, COUNTS)
def test_indices_are_ascending_distinct_in_range_and_as_many_as_asked_for(total, count):
    indices = frame_indices(total, count)
    assert len(indices) == min(total, count)
    assert indices == sorted(set(indices))
    assert all(0 <= index < total for index in indices)


@given(TOTALS, COUNTS)
def test_gaps_differ_by_at_most_one(total, count):
    indices = frame_indices(total, count)
    gaps = {later - earlier for earlier, later in zip(indices, indices[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(TOTALS, COUNTS)
def test_no_frame_is_more_than_half_a_stretch_away(total, count):
    indices = frame_indices(total, count)
    if indices:
        half = max(1, -(-total // (2 * count)))
        assert indices[0] <= half
        assert total - 1 - indices[-1] <= half


@given(st.integers(0, 300), COUNTS)
def test_all_frames_are_taken_where_there_are_no_more_than_asked_for(total, count):
    if total <= count:
        assert frame_indices(total, count) == list(range(total))


@pytest.mark.parametrize(
    ("total", "count", "indices"),
    [(1, 1, [0]), (2, 1, [1]), (10, 1, [5]), (10, 2, [2, 7]), (9, 3, [1, 4, 7]), (0, 5, []), (-3, 5, [])],
)
def test_each_index_is_the_middle_of_a_stretch(total, count, indices):
    assert frame_indices(total, count) == indices


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_frame_is_an_error_that_names_the_number(count):
    with pytest.raises(ValueError, match=f"at least 1; received {count}"):
        frame_indices(10, count)
