"""Splits: nobody meets again, nothing is lost, order does not matter, and shares are as near as groups allow."""

import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdfd.data.splits import SHARES, balance_classes, deviations, groups, split, split_as
from tfdfd.data.tables import FaceRow, IndexRow, keys_of, name_of, read_table, write_table


def index_row(path, sources=(), identity=(), label=0, method=None, dataset="ffpp", split=None, original=None):
    method = method or ("Deepfakes" if label else "original")
    return IndexRow(path, dataset, "video", label, method, tuple(sources), None, original, tuple(identity), split)


def face_row(file, video, sources, label=0, method=None, split=None, identity=()):
    method = method or ("Deepfakes" if label else "original")
    box = (0, 0, 9, 9)
    return FaceRow(file, "ffpp", video, 0, 0.0, 0, box, None, label, method, sources, identity, None, split)


def ffpp(pairs=100, crops=4):
    """Crops as FaceForensics++ has them: two originals a pair and the fakes of it by three methods."""
    rows = []
    for n in range(pairs):
        one, other = f"{2 * n:03}", f"{2 * n + 1:03}"
        videos = [(one, (one,), 0, None), (other, (other,), 0, None)]
        for method in ("Deepfakes", "Face2Face", "NeuralTextures"):
            videos += [(f"{method}/{a}_{b}", (a, b), 1, method) for a, b in ((one, other), (other, one))]
        for video, sources, label, method in videos:
            rows += [face_row(f"{video}/{c}.jpg", video, sources, label, method) for c in range(crops)]
    return rows


names = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), max_size=2, unique=True).map(tuple)
some_rows = st.lists(
    st.tuples(names, names, st.sampled_from(["dfdc", "ffpp"]), st.integers(0, 1), st.sampled_from("xyz")),
    min_size=1,
    max_size=80,
).map(
    lambda drawn: [
        index_row(f"{n}.mp4", sources, people, label, method if label else "original", dataset)
        for n, (sources, people, dataset, label, method) in enumerate(drawn)
    ]
)
some_shares = st.sampled_from([SHARES, {"train": 0.5, "test": 0.5}, {"train": 0.02, "val": 0.9, "test": 0.08}])


def reached(rows):
    """The group of each row by walking from row to row: slow, and written without the code that is tested."""
    with_key = defaultdict(set)
    for n, row in enumerate(rows):
        for key in keys_of(row):
            with_key[key].add(n)
    found = [None] * len(rows)
    for start in range(len(rows)):
        waiting = [start] if found[start] is None else []
        while waiting:
            n = waiting.pop()
            if found[n] is None:
                found[n] = start
                waiting += [m for key in keys_of(rows[n]) for m in with_key[key]]
    return found


@settings(max_examples=150, deadline=None)
@given(some_rows, some_shares, st.integers(0, 3), st.randoms(use_true_random=False))
def test_groups_stay_whole_rows_stay_and_shares_hold(rows, shares, seed, shuffler):
    group = reached(rows)
    sizes = Counter(group)
    if len(sizes) < len(shares):
        with pytest.raises(ValueError, match="splits are wanted, but the rows form"):
            split(rows, shares, seed)
        return
    done = split(rows, shares, seed)
    assert [name_of(row) for row in done] == [name_of(row) for row in rows]
    assert len({(g, row.split) for g, row in zip(group, done, strict=True)}) == len(sizes)

    filled, largest = Counter(row.split for row in done), max(sizes.values())
    assert set(filled) == set(shares)
    for name, share in shares.items():
        over = filled[name] - share * len(rows)
        assert -largest * (len(shares) - 1) - 1e-6 <= over <= largest + 1e-6

    shuffled = rows[:]
    shuffler.shuffle(shuffled)
    assert {row.path: row.split for row in split(shuffled, shares, seed)} == {row.path: row.split for row in done}


@settings(max_examples=100, deadline=None)
@given(some_rows)
def test_groups_are_the_connected_ones(rows):
    named, walked = groups(rows), reached(rows)
    assert len(set(zip(named, walked, strict=True))) == len(set(named)) == len(set(walked))


def test_a_pair_joins_two_originals_and_another_data_set_does_not():
    rows = [
        index_row("a.mp4", ["001"]),
        index_row("b.mp4", ["002"]),
        index_row("a_b.mp4", ["001", "002"], label=1),
        index_row("c.mp4", ["001"], dataset="dfdc"),
        index_row("d.mp4", ["003"], ["001"]),
    ]
    one, two, pair, elsewhere, person = groups(rows)
    assert one == two == pair
    assert len({one, elsewhere, person}) == 3  # a person called 001 is not a video called 001


def test_people_join_videos_unless_told():
    rows = [index_row("a.mp4", ["a"], ["p"]), index_row("b.mp4", ["b"], ["p"])]
    assert len(set(groups(rows))) == 1
    assert len(set(groups(rows, by=("source",)))) == 2
    with pytest.raises(ValueError, match=r"kept together by source, identity; received \('person',\)"):
        groups(rows, by=("person",))


def test_a_fake_follows_its_original_by_path_alone():
    rows = [index_row("a.mp4"), index_row("f.mp4", label=1, original="a.mp4"), index_row("b.mp4")]
    one, fake, other = groups(rows)
    assert one == fake != other


def test_a_video_in_two_compressions_is_one():
    def video(name, compression, original=None):
        return replace(index_row(f"x/{compression}/videos/{name}.mp4", original=original), compression=compression)

    rows = [video("a", "c23"), video("a", "c40"), video("f", "raw", "x/raw/videos/a.mp4"), video("b", "c23")]
    one, other, fake, another = groups(rows, by=("source",))
    assert one == other == fake != another


def test_every_method_gets_its_share_in_every_split():
    rows = ffpp()
    # A rare method, in the videos of nine pairs only.
    rows += [face_row(f"rare/{n}.jpg", f"rare/{n}", (f"{2 * n:03}",), 1, "rare") for n in range(0, 90, 10)]
    done = split(rows, {"train": 0.6, "val": 0.2, "test": 0.2}, seed=1)
    per_method = Counter((row.split, row.method) for row in done)
    for method, total in Counter(row.method for row in rows).items():
        for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            assert abs(per_method[name, method] - share * total) <= max(8, 0.01 * total), (method, name)
    assert [per_method[name, "rare"] for name in ("train", "val", "test")] in ([5, 2, 2], [6, 1, 2], [6, 2, 1])


def test_another_seed_gives_other_splits():
    rows = ffpp(pairs=30, crops=1)
    assert split(rows, seed=1) == split(rows, seed=1) != split(rows, seed=2)


def test_one_group_for_all_is_an_error_that_says_what_connects_it():
    rows = [index_row(f"{a}_{b}.mp4", [f"{a}_{b}"], [f"id{a}", f"id{b}"], 1) for a in range(9) for b in range(a)]
    with pytest.raises(ValueError) as told:
        split(rows)
    assert "form 1 group only: the largest group, 36 videos of ffpp with 100% of the rows" in str(told.value)
    assert "45 names (id0, id1, id2, id3, id4, …)" in str(told.value) and "--by source" in str(told.value)
    assert {row.split for row in split(rows, by=("source",))} == {"train", "val", "test"}


def test_what_is_joined_besides_stays_together_in_presets_too():
    rows = [index_row(f"{n}.mp4", [f"{n}"], dataset="celebdf") for n in range(40)]
    joined = [(n, n + 20) for n in range(19)]
    for done in (split(rows, joined=joined), split_as(rows, "s3", joined=joined)):
        assert all(done[one].split == done[other].split for one, other in joined)
        assert {row.split for row in done} == {"train", "val", "test"}
    told = r"connected by 40 names \(0, 1, 10, 11, 12, …\) and 39 pairs of pictures that are the same\."
    with pytest.raises(ValueError, match=told):
        split(rows, joined=[(n, n + 1) for n in range(39)])


def test_what_is_joined_to_a_kept_split_is_left_where_it_belongs():
    listed = [index_row(f"t{n}.mp4", [f"t{n}"], dataset="celebdf", split="test") for n in range(10)]
    rows = listed + [index_row(f"{n}.mp4", [f"{n}"], dataset="celebdf") for n in range(40)]
    done = split_as(rows, "s4", joined=[(0, 10), (20, 30), (21, 30)])
    assert done[:10] == listed and done[10].split != "test"
    assert done[20].split == done[21].split == done[30].split


def test_a_large_group_is_told_with_the_share_it_forces():
    rows = [index_row(f"{n}.mp4", [f"{n}"], ["anna"] if n < 90 else []) for n in range(100)]
    done = split(rows)
    told = deviations(done, SHARES)
    assert told[0] == "train has 90.0% of the rows instead of 70.0%"
    assert "90 videos of ffpp with 90% of the rows" in told[-1]
    assert deviations(split(ffpp()), SHARES) == []


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"train": 0.7, "val": 0.2}, "shares are train 0.7, val 0.2; expected train, val, test, each from 0 to 1"),
        ({"train": 1.2, "val": -0.2}, "each from 0 to 1 and together 1"),
        ({"train": 0.9, "dev": 0.1}, "shares are train 0.9, dev 0.1"),
        ({"train": float("nan"), "val": 1}, "together 1"),
    ],
)
def test_impossible_shares(shares, told):
    with pytest.raises(ValueError, match=told):
        split(ffpp(3), shares)


def test_no_rows():
    with pytest.raises(ValueError, match="no rows to split"):
        split([])


def test_official_splits_stay_and_rows_without_one_are_counted():
    rows = [index_row(f"{n}.mp4", [f"{n}"], split="test" if n % 2 else "train") for n in range(6)]
    assert split_as(rows, "official") == rows
    rows += [index_row("x.mp4", ["x"]), index_row("y.mp4", ["y"])]
    with pytest.raises(ValueError, match="2 of 8 rows have no split of their own, such as x.mp4"):
        split_as(rows, "official")
    with pytest.raises(ValueError, match="no preset 's9'; expected one of s0, s1, s2, s3, s3-75-25, s4, official"):
        split_as(rows, "s9")


def test_s2_keeps_official_splits_and_splits_the_rest_by_data_set():
    official = [index_row(f"{n}.mp4", [f"{n}"], split=("train", "val", "test")[n % 3]) for n in range(30)]
    # Few actors in many videos: people meet again, a fake and its original do not.
    actors = [index_row(f"dfd{n}.mp4", [f"scene{n}"], ["01"]) for n in range(50)]
    actors += [index_row(f"fake{n}.mp4", [f"scene{n}"], ["01"], 1, "DeepFakeDetection") for n in range(50)]
    dfdc = []
    for n in range(50):
        # All that one downloads with metadata.json is the challenge's training set.
        dfdc += [index_row(f"r{n}.mp4", [f"r{n}"], dataset="dfdc", split="train")]
        dfdc += [index_row(f"f{n}{k}.mp4", [f"r{n}"], label=1, dataset="dfdc", split="train") for k in range(3)]
    done = split_as(official + actors + dfdc, "s2")
    assert done[:30] == official
    assert Counter(row.split for row in done[30:130]) == {"train": 72, "val": 14, "test": 14}
    assert [row.split for row in done[30:80]] == [row.split for row in done[80:130]]
    assert Counter(row.split for row in done[130:] if row.label == 0) == {"train": 40, "val": 5, "test": 5}
    assert len({(row.source_id, row.split) for row in done[130:]}) == 50


def test_s3_and_s4():
    rows = [index_row(f"{n}.mp4", [f"{n}"], dataset="celebdf", label=n % 2) for n in range(200)]
    assert Counter(row.split for row in split_as(rows, "s3")) == {"train": 140, "val": 30, "test": 30}
    with pytest.raises(ValueError, match="no row has the split test of its own, which preset s4 keeps"):
        split_as(rows, "s4")
    listed = [index_row(f"t{n}.mp4", [f"t{n}"], dataset="celebdf", split="test") for n in range(40)]
    done = split_as(rows + listed, "s4")
    assert done[200:] == listed
    assert Counter(row.split for row in done[:200]) == {"train": 170, "val": 30}


@settings(max_examples=60, deadline=None)
@given(some_rows, st.integers(0, 3), st.randoms(use_true_random=False))
def test_balanced_drops_from_the_larger_class_only(rows, seed, shuffler):
    if len(set(groups(rows))) < 2:
        return
    done = split(rows, {"train": 0.5, "test": 0.5}, seed)
    count = Counter((row.split, row.label) for row in done)
    if len(count) < 4:
        with pytest.raises(ValueError, match="balancing would leave none"):
            balance_classes(done, seed)
        return
    kept, dropped = balance_classes(done, seed)
    assert sorted(kept + dropped, key=name_of) == sorted(done, key=name_of)
    for name in ("train", "test"):
        left = [sum(row.split == name and row.label == label for row in kept) for label in (0, 1)]
        assert left == [min(count[name, 0], count[name, 1])] * 2
    shuffler.shuffle(done)
    assert sorted(balance_classes(done, seed)[0], key=name_of) == sorted(kept, key=name_of)


def test_balanced_takes_methods_and_videos_in_turns():
    kept, dropped = balance_classes(split(ffpp(pairs=50, crops=8)))
    for name in ("train", "val", "test"):
        fakes = [row for row in kept if row.split == name and row.label]
        assert len(fakes) == sum(row.split == name and row.label == 0 for row in kept)
        methods, videos = Counter(row.method for row in fakes), Counter(row.video for row in fakes)
        assert max(methods.values()) - min(methods.values()) <= 1
        assert len(videos) == len({r.video for r in kept + dropped if r.split == name and r.label})
        assert max(videos.values()) - min(videos.values()) <= 1


def test_split_verb_writes_and_tells(tmp_path, run_tfdfd):
    rows = ffpp(pairs=20)
    random.Random(0).shuffle(rows)
    (tmp_path / "faces").mkdir()
    write_table(tmp_path / "faces" / "faces.csv", rows, FaceRow)
    words = ["split", tmp_path / "faces" / "faces.csv", "-o", tmp_path / "split.csv", "--balance"]
    code, _, err = run_tfdfd(*words)
    assert code == 2 and "none of the 640 files" in err and "--no-crops" in err
    code, out, err = run_tfdfd(*words, "--no-crops")
    assert code == 0, err
    done = read_table(tmp_path / "split.csv", FaceRow)
    assert all(row.file.startswith("faces/") for row in done)  # still the same crops, seen from the new table
    assert Counter(row.label for row in done) == {0: 160, 1: 160}
    assert "320 rows dropped" in out
    train = next(line.split() for line in out.splitlines() if line.startswith("train"))
    assert train[1:7] == ["224", "112", "28", "112", "112", "50.0%"]


def test_split_verb_refuses_what_makes_no_sense(tmp_path, run_tfdfd):
    table = tmp_path / "index.csv"
    write_table(table, [index_row(f"{n}.mp4", [f"{n}"]) for n in range(20)], IndexRow)
    out = tmp_path / "out.csv"
    code, _, err = run_tfdfd("split", table, "-o", out, "--train", "0.7")
    assert code == 2 and "together 1" in err
    code, _, err = run_tfdfd("split", table, "-o", out, "--preset", "s3", "--train", "1")
    assert code == 2 and "--preset s3 has shares of its own" in err
    code, _, err = run_tfdfd("split", table, "-o", tmp_path / "no" / "out.csv")
    assert code == 2 and "does not exist" in err
    code, _, err = run_tfdfd("split", table, "-o", out, "--preset", "official")
    assert code == 2 and "20 of 20 rows have no split of their own" in err
    assert not out.exists()
    code, told, _ = run_tfdfd("split", table, "-o", out, "--train", "0.8", "--val", "0.2")
    assert code == 0 and Counter(row.split for row in read_table(out, IndexRow)) == {"train": 16, "val": 4}
