"""Selection of the frames of a video."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdfd.media import InOrder, choose_in_order, frame_indices

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


def taken(times, **choice):
    return [index for index, _ in choose_in_order(enumerate(times), InOrder(**choice))]


@given(st.floats(0.1, 200), st.floats(0.01, 100), st.integers(0, 400))
def test_every_stretch_of_seconds_gives_its_first_frame(rate, seconds, total):
    times = [round(i / rate, 3) for i in range(total)]
    indices = taken(times, every_s=seconds)
    # A time may be a millisecond short of the stretch that it opens.
    stretches = [int((times[i] + 1e-3) / seconds) for i in indices]
    assert stretches == sorted({int((time + 1e-3) / seconds) for time in times})


@pytest.mark.parametrize(
    ("times", "seconds", "indices"),
    [
        ([i / 25 for i in range(60)], 1, [0, 25, 50]),
        ([round(i / 29.97, 3) for i in range(100)], 1, [0, 30, 60, 90]),
        ([0.0, 0.4, 0.9996, 1.4, 2.0], 1, [0, 2, 4]),
        ([0.0, 3.5, 3.6, 4.0], 1, [0, 1, 3]),
        ([5.0, 5.5, 6.0], 1, [0, 2]),
        ([0.0] * 4, 1, [0]),
        ([], 1, []),
    ],
)
def test_frames_every_so_many_seconds(times, seconds, indices):
    assert taken(times, every_s=seconds) == indices


@given(st.integers(0, 50), st.integers(1, 20), st.sampled_from([None, 0.1]))
def test_windows_of_a_choice_are_the_whole_choice(total, count, every_s):
    times = [i / 25 for i in range(total)]
    whole = taken(times, every_s=every_s)
    windows = [taken(times, every_s=every_s, skip=skip, count=count) for skip in range(0, total + 1, count)]
    assert sum(windows, []) == whole
    assert whole == list(range(total)) or every_s


def test_frames_are_taken_by_number():
    assert taken([0.0] * 5, only=frozenset({1, 3, 9})) == [1, 3]
    assert taken([0.0] * 5, only=frozenset({1, 3, 9}), skip=1) == [3]
    assert taken([0.0] * 5, only=frozenset()) == []


@pytest.mark.parametrize("choice", [{"count": 2}, {"only": frozenset({0, 1})}])
def test_nothing_is_decoded_beyond_the_last_frame_chosen(choice):
    asked = []

    def frames():
        for index in range(5):
            asked.append(index)
            yield index, 0.0

    assert [index for index, _ in choose_in_order(frames(), InOrder(**choice))] == [0, 1]
    assert asked == [0, 1]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"every_s": 0}, "greater than 0; received 0"),
        ({"every_s": float("nan")}, "received nan"),
        ({"skip": -1}, "at least 0; received -1"),
        ({"count": 0}, "at least 1; received 0"),
    ],
)
def test_a_choice_of_no_use_is_an_error_that_names_the_value(choice, told):
    with pytest.raises(ValueError, match=told):
        InOrder(**choice)
