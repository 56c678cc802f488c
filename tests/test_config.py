"""Settings: declared once, closed, and what a rule carries of them is read back unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from linker.config import Group, Settings, read_group, read_settings, token
from linker.errors import SettingsError
from linker.layers import anchored, layered, merge, parse_assignment, read_layer, settings_of, settings_table

ROOT = Path(__file__).resolve().parent.parent
GROUPS = [(name, field.annotation) for name, field in Settings.model_fields.items()]


@pytest.mark.parametrize(("name", "kind"), GROUPS)
def test_a_token_is_one_line_and_reads_back(name: str, kind: type[Group]) -> None:
    line = token(kind())
    assert "\n" not in line
    assert getattr(read_settings({name: kind.model_validate_json(line).model_dump()}, "here"), name) == kind()


@pytest.mark.parametrize(("name", "kind"), GROUPS)
def test_every_setting_says_what_it_means(name: str, kind: type[Group]) -> None:
    assert [key for key, field in kind.model_fields.items() if not field.description] == []


def test_tokens_do_not_depend_on_the_order_of_keys() -> None:
    ways = [{"finish": {"crf": 20, "audio_kbps": 64}}, {"finish": {"audio_kbps": 64, "crf": 20}}]
    assert len({token(read_settings(values, "here").finish) for values in ways}) == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"finish": {"crff": 20}}, "finish.crff"),
        ({"finishing": {}}, "finishing"),
        ({"finish": {"crf": 99}}, "finish.crf"),
        ({"finish": {"crf": "many"}}, "finish.crf"),
        ({"curate": {"min_segment_s": 12}}, "curate.max_segment_s: Value error, must be at least twice min_segment_s"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_settings(values, "config.yaml")
    if "finish" in values:
        with pytest.raises(SettingsError, match=told):  # as steps do, which are told their own groups alone
            read_group("finish", values["finish"], "--settings")


def test_a_file_that_is_missing_or_no_mapping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_layer(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(SettingsError, match="needed setting groups"):
        read_layer(tmp_path / "list.yaml")


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("launch: {cluster: slurm, gpus: 1}\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("finish: {crf: 20}\nlaunch: {gpus: 2}\n")
    settings = settings_of(layered(tmp_path, mine, ["finish.audio_kbps=64", "finish.crf=21"]), "here")
    assert (settings.launch.cluster, settings.launch.gpus) == ("slurm", 2)
    assert (settings.finish.crf, settings.finish.audio_kbps) == (21, 64)


@pytest.mark.parametrize("words", ["crf=20", "finish.crf", "finish.=3", "=", ""])
def test_an_assignment_without_group_key_or_value_is_an_error(words: str) -> None:
    with pytest.raises(SettingsError, match=r"group\.key=value"):
        parse_assignment(words)


def test_a_value_with_a_colon_is_words() -> None:
    assert parse_assignment("finish.label=AI: made") == {"finish": {"label": "AI: made"}}


def test_merge_leaves_its_arguments_alone() -> None:
    low, high = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(low, high) == {"a": {"b": 1, "c": 2}}
    assert (low, high) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_weights_beside_the_user_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    settings = read_settings({"generate": {"weights": "mine"}, "language": {"whisper": "small"}}, "here")
    found = anchored(settings, tmp_path)
    assert found.generate.weights == str(tmp_path / "mine")
    assert found.language.whisper == "small"


def test_the_table_of_settings_is_up_to_date() -> None:
    told = "run `python -m linker.layers > config/README.md`"
    assert (ROOT / "config" / "README.md").read_text() == settings_table(), told


def test_the_shipped_configuration_and_profiles_are_valid() -> None:
    assert settings_of(layered(None, None, []), "config.yaml") == Settings()
    assert settings_of(layered(ROOT / "slurm", None, []), "slurm").launch.cluster == "slurm"
