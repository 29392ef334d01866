"""Ollama prompts as training did: its Go template writes what the Jinja template writes, or there is none."""

from __future__ import annotations

import pytest

from auto_bot_tuner.data.chat_template import BUILT_IN_BOS, BUILT_IN_TEMPLATE, choose_template, render
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.export.chat_shape import conversations, shape_of
from auto_bot_tuner.export.ollama import go_template
from auto_bot_tuner.utils.errors import UsageError, UserError
from tests import chat_templates, go_templates
from tests.reward_runs import byte_tokenizer
from tests.test_export import CHAT, convert
from tests.test_gguf import value


def with_template(template: str):
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.chat_template = BUILT_IN_TEMPLATE if template == "builtin" else template
    return tokenizer


@pytest.mark.parametrize("name", chat_templates.FAITHFUL)
def test_the_go_template_writes_what_the_chat_template_writes(name):
    tokenizer = with_template(chat_templates.FAITHFUL[name])
    shape = shape_of(tokenizer)
    template = go_template(shape)
    talks = [*conversations(shape.takes_system), *([CHAT] if shape.takes_system else [CHAT[1:]])]
    for talk in talks:
        expected = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert go_templates.execute(template, talk) == expected


def test_what_a_template_does_besides_is_known():
    assert shape_of(with_template(chat_templates.LLAMA_3)).trims
    assert not shape_of(with_template(chat_templates.ZEPHYR)).trims
    gemma = shape_of(with_template(chat_templates.GEMMA))
    assert not gemma.takes_system
    # A system message that has no place is left out, and takes nothing else with it.
    assert go_templates.execute(go_template(gemma), CHAT) == go_templates.execute(go_template(gemma), CHAT[1:])


@pytest.mark.parametrize("template", [chat_templates.MISTRAL, chat_templates.COUNTING])
def test_no_modelfile_where_the_template_does_more(template, tmp_path):
    (tmp_path / "template.jinja").write_text(template)
    with pytest.raises(UserError, match="so no Modelfile was made: export --format gguf"):
        words = ("export", "--checkpoint", "tiny", "--chat-template", tmp_path / "template.jinja")
        convert(*words, "--format", "ollama", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bos_is_written_once_by_the_template_or_by_ollama():
    from tokenizers.processors import TemplateProcessing

    tokenizer = with_template(BUILT_IN_BOS + BUILT_IN_TEMPLATE)
    bos = tokenizer.bos_token
    assert go_templates.execute(go_template(shape_of(tokenizer)), CHAT).startswith(bos + "Be brief.")
    # Where the tokenizer puts it in front of every text, so does Ollama: the file says add_bos_token.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    shape = shape_of(tokenizer)
    written = go_templates.execute(go_template(shape), CHAT)
    assert shape.bos == bos and written.startswith("Be brief.")
    assert tokenizer(written)["input_ids"] == PromptFormat.from_tokenizer(tokenizer).encode_prompt(CHAT)


def test_the_modelfile_prompts_with_trainings_ids_and_stops_where_training_did(tmp_path, capsys):
    from auto_bot_tuner.export.source import load

    convert("export", "--checkpoint", "tiny", "--format", "ollama", "--name", "mine", "--output", tmp_path / "out")
    assert f"ollama create mine -f {tmp_path / 'out' / 'Modelfile'}" in capsys.readouterr().out
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./mine.gguf\n") and 'PARAMETER stop "<|endoftext|>"' in modelfile
    assert "PARAMETER num_ctx 256\n" in modelfile
    template = modelfile.split('"""')[1]
    tokenizer = load("tiny").tokenizer
    ids = tokenizer(go_templates.execute(template, CHAT), add_special_tokens=False)["input_ids"]
    assert ids == PromptFormat.from_tokenizer(tokenizer).encode_prompt(CHAT)
    (expected,) = render(tokenizer, choose_template(tokenizer), [CHAT], open_turn=True)
    assert go_templates.execute(template, CHAT) == expected
    assert value(tmp_path / "out" / "mine.gguf", "general.architecture") == "gpt2"


def test_wrong_names_are_wrong_usage(tmp_path):
    words = ("export", "--checkpoint", "tiny", "--output", tmp_path / "out")
    with pytest.raises(UsageError, match="'a b' is no name for a model in Ollama"):
        convert(*words, "--format", "ollama", "--name", "a b")
    with pytest.raises(UsageError, match="--dtype q8_0 is for gguf and ollama"):
        convert(*words, "--format", "safetensors", "--dtype", "q8_0")
    with pytest.raises(UsageError, match="--name is for gguf and ollama"):
        convert(*words, "--format", "safetensors", "--name", "x")
