"""Layers of settings: preset below file below flags, every number typed, every mistake one line with the cure."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.sft import SFTConfig
from auto_bot_tuner.training import DatasetConfig, ModelConfig
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.run_config import RunConfig, load_run_config, save_run_config

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "sft_test.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_yaml_of_the_documents_loads_as_written(write):
    path = write(
        """
method: sft
model: {name: gpt2, use_lora: true}
dataset: {name: yahma/alpaca-cleaned, max_samples: 500, max_length: 256, format_type: alpaca}
training: {learning_rate: 2.0e-5, batch_size: 4, gradient_accumulation_steps: 4, num_epochs: 1,
           output_dir: checkpoints/sft/quick}
"""
    )
    config = load_run_config(path)
    assert (config.method, config.model.name, config.model.use_lora) == ("sft", "gpt2", True)
    assert (config.dataset.max_samples, config.dataset.max_length) == (500, 256)
    assert isinstance(config.training, SFTConfig)
    assert (config.training.learning_rate, config.training.output_dir) == (2e-5, "checkpoints/sft/quick")


def test_later_layers_win_key_by_key(write):
    preset = write("training: {batch_size: 2, seed: 1, num_epochs: 3}", "sft_preset.yaml")
    path = write("training: {seed: 2, num_epochs: 4}")
    config = load_run_config(path, {"training": {"num_epochs": 5}}, preset=preset)
    assert (config.training.batch_size, config.training.seed, config.training.num_epochs) == (2, 2, 5.0)


def test_a_mix_replaces_the_name_below_it_and_a_name_the_mix(write):
    named, mixed = write("dataset: {name: a.jsonl, subset: s}", "sft_a.yaml"), write("dataset: {mix: {b: 1}}")
    assert load_run_config(mixed, preset=named).dataset == DatasetConfig(mix={"b": 1}, subset="s")
    assert load_run_config(named, preset=mixed).dataset == DatasetConfig(name="a.jsonl", subset="s")
    both = load_run_config(named, {"dataset": {"name": "c", "mix": {"b": 1}}}).dataset
    assert (both.name, both.mix) == ("c", {"b": 1})  # one layer that says both is told so when the rows are loaded


def test_a_number_that_yaml_reads_as_a_string_arrives_as_a_number(write):
    # YAML 1.1 wants a dot in a float: 5e-7 is the string "5e-7" there.
    assert load_run_config(write("training: {learning_rate: 5e-7}")).training.learning_rate == 5e-7


@pytest.mark.parametrize(
    ("named", "given_type", "file"), [("sft", "", "x.yaml"), ("", "sft", "x.yaml"), ("", "", "sft_x.yaml")]
)
def test_the_method_comes_from_the_file_else_the_flag_else_the_name(write, named, given_type, file):
    text = (f"method: {named}\n" if named else "") + "training: {seed: 3}"
    config = load_run_config(write(text, file), method=given_type)
    assert config.method == "sft" and config.training.seed == 3


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_its_name_says_its_method(path):
    assert load_run_config(path).method == path.stem.split("_")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {learning_rat: 1}", ("'learning_rat'", "did you mean training.learning_rate?")),
        ("training: {epochs: 1}", ("did you mean training.num_epochs?",)),  # the flag's spelling
        ("model: {learning_rate: 1}", ("belongs under training",)),
        ("training: {zzzz: 1}", ("there are output_dir, overwrite",)),  # nothing near: the list
        ("trainings: {seed: 1}", ("unknown section 'trainings'", "training")),
        ("learning_rate: 1", ("belongs under training",)),
        ("training: {batch_size: -1}", ("training.batch_size", "greater than 0", "-1")),
        ("training: {batch_size: 2.5}", ("training.batch_size", "integer")),
        ("training: {batch_size: many}", ("training.batch_size", "integer", "'many'")),
        ("training: {batch_size: yes}", ("training.batch_size should not be true",)),
        ("training: {batch_size: }", ("training.batch_size", "integer")),
        ("training: {lr_schedule: cubic}", ("training.lr_schedule", "'cosine'")),
        ("training: {learning_rate: .nan}", ("training.learning_rate",)),
        ("training: {report_to: [tensorboard, excel]}", ("training.report_to[1]",)),
        ("training: [1, 2]", ("training must be a section",)),
        ("training: {seed: 1, seed: 2}", ("line 1", "'seed' stands twice")),
        ("training: {seed: 1}\ntraining: {seed: 2}", ("line 2", "'training' stands twice")),
        ("a: &x [1, 1]\nb: [*x, *x]", ("line 2", "aliases")),
        ("training: {seed: 1", ("line",)),
        ("model:\n\tname: x", ("line 2",)),
        ("1: {seed: 1}", ("key 1 is not a word",)),
        ("", ("is empty",)),
        ("# nothing but a comment", ("is empty",)),
        ("- a\n- b", ("holds a list",)),
        ("just words", ("holds a str",)),
        ("[" * 20_000, ("nested too deeply",)),
        (b"\xff\xfe\x00\x80", ("not a text file in UTF-8",)),
        ("method: sfft\ntraining: {seed: 1}", ("unknown method 'sfft'", "did you mean sft?")),
        ("training: !!python/object/apply:os.system ['true']", ("python/object",)),
    ],
)
def test_a_mistake_is_one_line_that_names_place_and_cure(write, text, words):
    with pytest.raises(UsageError) as caught:
        load_run_config(write(text))
    message = str(caught.value)
    assert "\n" not in message
    assert "sft_test.yaml" in message or "method" in message
    for word in words:
        assert word in message


def test_a_missing_file_names_its_neighbours(write):
    neighbour = write("training: {seed: 1}")
    with pytest.raises(UsageError, match=r"no config file .*sft_tset.yaml: .* holds sft_test.yaml"):
        load_run_config(neighbour.with_name("sft_tset.yaml"))


def test_a_file_whose_method_nobody_names_is_refused(write):
    with pytest.raises(UsageError, match="names no method"):
        load_run_config(write("training: {seed: 1}", "experiment.yaml"))


def test_a_type_that_contradicts_the_file_is_refused(write):
    with pytest.raises(UsageError, match="config for sft, not for dpo"):
        load_run_config(write("method: sft\ntraining: {seed: 1}"), method="dpo")


@settings(max_examples=50, deadline=None)
@given(
    learning_rate=st.none() | st.floats(min_value=1e-12, max_value=1.0),
    name=st.text(max_size=20).filter(lambda text: text.isprintable()),
    prompts=st.lists(st.text(max_size=30), max_size=3),
    mix=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(str.isprintable), st.floats(min_value=1e-3, max_value=10), max_size=3
    ),
)
def test_a_saved_config_loads_back_equal(tmp_path_factory, learning_rate, name, prompts, mix):
    config = RunConfig(
        method="sft",
        model=ModelConfig(name=name, lora_targets=("c_attn", "c_proj")),
        dataset=DatasetConfig(mix=mix),
        training=SFTConfig(learning_rate=learning_rate, sample_prompts=tuple(prompts), neftune_alpha=5),
    )
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    save_run_config(path, config)
    assert load_run_config(path) == config


def test_a_character_that_yaml_takes_for_a_line_end_survives_and_others_stay_readable(tmp_path):
    for prompt, is_readable in (("a\x85b", False), ("Wie heißt du? 你好", True)):
        config = RunConfig(method="sft", training=SFTConfig(sample_prompts=(prompt,)))
        save_run_config(tmp_path / "config.yaml", config)
        assert load_run_config(tmp_path / "config.yaml") == config
        assert (prompt in (tmp_path / "config.yaml").read_text(encoding="utf-8")) == is_readable


def test_a_config_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_run_config(tmp_path / "file" / "config.yaml", load_run_config(CONFIGS / "sft_tiny_quick.yaml"))
