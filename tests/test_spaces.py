"""Search spaces: one for every network, whose ends its builder takes; and what is told of one that is wrong."""

import json
from pathlib import Path

import pytest

from tfdfd.models import build, list_models, spec
from tfdfd.recipes import find_recipe
from tfdfd.recipes.self_blended import MEMBERS_ONLY
from tfdfd.training.recipe import assignment, read_config
from tfdfd.tuning.search_space import Setting, read_space

SEARCHED = [name for name in list_models() if name not in MEMBERS_ONLY]
TUNING = Path(__file__).parent.parent / "tuning"
GOOD = {
    "network": "meso4",
    "recipe": "sbi-meso4",
    "search": {
        "learning_rate": {"min": 1e-4, "max": 1e-2, "scale": "log"},
        "optimizer": {"choices": ["adam", "radam"]},
    },
}


@pytest.fixture
def space_of(tmp_path):
    """A function that reads the space of a file with other keys than `GOOD`."""

    def read(**changes):
        file = tmp_path / "space.json"
        file.write_text(json.dumps(GOOD | changes), encoding="utf-8")
        return read_space(file)

    return read


def test_there_is_one_for_every_network_and_none_besides():
    assert {file.stem for file in (TUNING / "spaces").iterdir()} == set(SEARCHED)


@pytest.mark.parametrize("network", SEARCHED)
def test_each_end_of_each_range_is_a_recipe(network):
    space = read_space(network)
    base = space.base()
    assert (space.network, base.network) == (network, network)
    assert base.patience
    for setting in space.search:
        for value in setting.extremes():
            changed = base.changed([assignment(setting.key, value)]).settings()
            key = setting.key.removeprefix("arguments.")
            assert (changed["arguments"] if key != setting.key else changed)[key] == value
    assert {"learning_rate", "optimizer", "batch_size", "augment"} <= {setting.key for setting in space.search}
    batches = next(setting.choices for setting in space.search if setting.key == "batch_size")
    assert all(size % 2 == 0 for size in batches)  # a real crop and its fake are in one batch


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=pytest.mark.slow if spec(name).params > 3e7 else ()) for name in SEARCHED],
)
def test_the_builder_takes_the_ends(network):
    space = read_space(network)
    side = spec(network).min_size
    # The first values, too, where they are quick to try.
    for end in [-1, 0] if spec(network).params < 3e6 else [-1]:
        given = [assignment(setting.key, setting.extremes()[end]) for setting in space.search]
        model = build(network, None, (side, side, 3), **space.base().changed(given).arguments)
        assert model.output_shape == (None, 1)


def test_a_setting_that_does_not_exist(space_of):
    with pytest.raises(ValueError, match="no setting 'learning_rat'; did you mean learning_rate"):
        space_of(search={"learning_rat": {"min": 1e-4, "max": 1e-2}})
    with pytest.raises(ValueError, match="no setting 'patiense'; did you mean patience"):
        space_of(fixed={"patiense": 3})


def test_a_value_that_the_recipe_refuses(space_of):
    with pytest.raises(ValueError, match="optimizer must be one of .*'adamm'; did you mean adam"):
        space_of(search={"optimizer": {"choices": ["adam", "adamm"]}})
    with pytest.raises(ValueError, match="ema must be between 0 and 1; received 2"):
        space_of(search={"ema": {"min": 0.9, "max": 2}})


@pytest.mark.parametrize(
    "values",
    [
        {"min": 1, "max": 1},
        {"min": 0, "max": 1, "scale": "log"},
        {"min": 0.1, "max": 1, "scale": "cubic"},
        {"min": 0.1},
        {"min": 0.1, "max": True},
        {"min": 0.1, "max": float("inf")},
        {"choices": []},
        {"choices": [[1]]},
        {"choices": [1], "min": 0},
        [1, 2],
        "adam",
    ],
)
def test_values_that_are_none(space_of, values):
    with pytest.raises(ValueError, match="'learning_rate' needs"):
        space_of(search={"learning_rate": values})


def test_a_recipe_of_another_network(space_of):
    with pytest.raises(ValueError, match="recipe s1-meso4 trains meso4; the space says it is for 'xception'"):
        space_of(network="xception", recipe="s1-meso4")
    with pytest.raises(ValueError, match="no recipe is known as 's1-meso'; did you mean"):
        space_of(recipe="s1-meso")


def test_other_keys(space_of):
    with pytest.raises(ValueError, match="a search space has network, recipe, search.*received nettwork"):
        read = dict(GOOD, nettwork="meso4")
        space_of(**read)
    with pytest.raises(ValueError, match="'search' must contain the varied settings by key"):
        space_of(search={})


def test_names_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="no network is known as 'meso5'.*did you mean meso4"):
        read_space("meso5")
    with pytest.raises(ValueError, match="cannot read the search space"):
        read_space(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"network": ')
    with pytest.raises(ValueError, match="cannot read the search space"):
        read_space(tmp_path / "half.json")


def test_a_space_of_this_folder_goes_first(tmp_path, monkeypatch):
    (tmp_path / "tuning" / "spaces").mkdir(parents=True)
    (tmp_path / "tuning" / "spaces" / "meso4.json").write_text(json.dumps(GOOD), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert [setting.key for setting in read_space("meso4").search] == ["learning_rate", "optimizer"]
    assert len(read_space("xception").search) > 2


def test_levels_of_a_range():
    assert Setting("learning_rate", low=1e-4, high=1e-2, scale="log").levels(3) == (1e-4, pytest.approx(1e-3), 1e-2)
    assert Setting("momentum", low=0.5, high=0.9).levels(3) == (0.5, pytest.approx(0.7), 0.9)
    assert Setting("epochs", low=1, high=2).levels(3) == (1, 2)
    assert Setting("augment", choices=(None, "s1")).levels(3) == (None, "s1")


def config(tmp_path, **changes):
    file = tmp_path / "best.json"
    settings = {"learning_rate": 0.000123456789012345, "ema": None, "arguments.dropout": 0.25, "loss_scale": True}
    file.write_text(json.dumps({"network": "meso4", "recipe": "sbi-meso4", "settings": settings} | changes))
    return file


def test_a_config_changes_a_recipe(tmp_path):
    recipe = read_config(config(tmp_path), find_recipe("sbi-meso4"))
    assert recipe.learning_rate == 0.000123456789012345
    assert recipe.ema is None
    assert recipe.arguments == {"dropout": 0.25}
    assert recipe.loss_scale is True
    assert recipe.epochs == find_recipe("sbi-meso4").epochs
    assert read_config(config(tmp_path, settings={"members": ["a", "b"]}), recipe).members == ("a", "b")
    assert read_config(config(tmp_path, settings={"arguments.freeze": "none"}), recipe).arguments["freeze"] == "none"
    assert read_config(config(tmp_path, settings={"arguments.freeze": None}), recipe).arguments["freeze"] is None


def test_a_config_of_no_use(tmp_path):
    recipe = find_recipe("s1-meso4")
    with pytest.raises(ValueError, match="has settings for xception; s1-meso4 trains meso4"):
        read_config(config(tmp_path, network="xception"), recipe)
    with pytest.raises(ValueError, match=r"best.json: s1-meso4 has no setting 'epoch'; did you mean epochs"):
        read_config(config(tmp_path, settings={"epoch": 3}), recipe)
    for text in ("", "[1]", '{"network": "meso4"}', '{"network": "meso4", "settings": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="bad.json holds no settings"):
            read_config(tmp_path / "bad.json", recipe)


@pytest.mark.parametrize("file", sorted((TUNING / "best").glob("*.json")), ids=lambda file: file.stem)
def test_committed_results_are_of_their_space_and_complete(file):
    told = json.loads(file.read_text(encoding="utf-8"))
    assert told["network"] == file.stem
    read_config(file, find_recipe(told["recipe"]))
    space = {setting.key: setting for setting in read_space(file.stem).search}
    for key in space.keys() & told["settings"].keys():
        value, setting = told["settings"][key], space[key]
        assert value in setting.choices if setting.choices else setting.low <= value <= setting.high
    objective = told["score"]["objective"]
    scores = [trial[objective] for trial in told["trials"] if trial["status"] == "COMPLETED"]
    assert told["score"]["value"] == max(scores)
    low, high = told["score"]["interval"]
    assert low <= told["score"]["value"] <= high
    assert told["command"].startswith("tfdfd tune ")
    assert len(told["commit"]) == 40
    assert told["data"]["rows_sha256"]


def test_best_settings_by_the_name_of_their_network():
    recipe = find_recipe("sbi-mobilenet-v1")
    assert read_config("mobilenet_v1", recipe) == read_config(TUNING / "best" / "mobilenet_v1.json", recipe)
    with pytest.raises(ValueError, match="no best settings of a network by that name.*mobilenet_v1"):
        read_config("mobilenet_v2", recipe)
