"""GGUF files hold the model: its numbers in GGUF's order, its tokenizer, its template."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from auto_bot_tuner.export.gguf_file import check_can_carry, export_gguf
from auto_bot_tuner.export.gguf_model import check_config, context_length, hyperparameters
from auto_bot_tuner.export.gguf_tokenizer import ScoreJoiner, cut_of, tokenizer_metadata
from auto_bot_tuner.export.safetensors_folder import export_safetensors
from auto_bot_tuner.export.source import Loaded, load
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.model_source import ModelSource
from tests.reward_runs import EOS, byte_tokenizer, save_byte_model
from tests.test_export import convert

gguf = pytest.importorskip("gguf")

SIZES = {
    "vocab_size": EOS + 1,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": EOS,
    "eos_token_id": EOS,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# What is easily got wrong about each.
MODELS = {
    "gpt2": {},  # matrices the other way round, learned positions, tied head
    "gpt2 untied": {"tie_word_embeddings": False, "n_positions": 1024, "n_inner": 100},
    "llama": {},  # grouped queries, interleaved halves
    "llama wide heads": {"head_dim": 32, "tie_word_embeddings": True, "attention_bias": True},
    "llama linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    "llama llama3": {"rope_parameters": LLAMA_3_ROPE},
    "mistral": {"sliding_window": 48},
    "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},  # biases, no interleaving
    "qwen3": {"head_dim": 32},  # norms of queries and keys
}


def make(name: str, seed: int = 0, **more) -> Loaded:
    """A model with weights of ordinary size, none of them 0 or 1 by initialisation, and a byte tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, settings = name.split()[0], {**MODELS[name], **more}
    if family == "gpt2":
        gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": EOS + 1}
        config = AutoConfig.for_model("gpt2", **{**gpt2, "bos_token_id": EOS, "eos_token_id": EOS, **settings})
    else:
        config = AutoConfig.for_model(family, **{**SIZES, **settings})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.15)
    tokenizer = with_a_merge(byte_tokenizer())
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    return Loaded(ModelSource(name, Path("nowhere")), model, tokenizer, is_reward=False)


def with_a_merge(tokenizer):
    """The byte tokenizer with one pair to join, "th", in the place of byte 255, which occurs in no text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    letters = state["model"]["vocab"]
    letters["th"] = letters.pop("ÿ")
    state["model"]["merges"] = [["t", "h"]]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=torch.arange(40)[None] * 7 % EOS).logits[0].float()


def tensors_of(file: Path) -> dict:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def value(file: Path, key: str):
    field = gguf.GGUFReader(file).fields.get(key)
    return None if field is None else field.contents()


@pytest.mark.parametrize("name", MODELS)
def test_float32_reads_back_with_equal_logits(name, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    loaded = make(name)
    before = logits(loaded.model)
    lines = export_gguf(loaded, tmp_path / "out", "model", "float32")
    assert "largest logit difference" in "\n".join(lines)
    # A Mistral file says llama, which is what it is but for the window.
    family = {"model_type": "llama"} if name == "mistral" else {}
    config = AutoConfig.for_model(**{**loaded.model.config.to_dict(), **family})
    settings = {"gguf_file": "model.gguf", "dtype": torch.float32, "config": config}
    read_back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", **settings).eval()
    assert float((logits(read_back) - before).abs().max()) <= 1e-4
    assert float(before.std()) > 0.1  # the comparison could fail


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 2**-11), ("bfloat16", 2**-8), ("q8_0", 1 / 254 + 2**-11)])
def test_each_type_stores_every_matrix_within_its_rounding(dtype, largest, tmp_path):
    loaded = make("llama")
    exact = {name: tensor.clone().numpy() for name, tensor in loaded.model.state_dict().items()}
    export_gguf(loaded, tmp_path / "out", "model", dtype)
    stored = tensors_of(tmp_path / "out" / "model.gguf")
    for theirs, ours in (("token_embd", "model.embed_tokens"), ("blk.1.ffn_down", "model.layers.1.mlp.down_proj")):
        tensor = stored[f"{theirs}.weight"]
        assert tensor.tensor_type.name == {"float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}[dtype]
        numbers, weights = gguf.dequantize(tensor.data, tensor.tensor_type), exact[f"{ours}.weight"]
        # 16 bits round each number by itself; q8_0 to half a step of its block, whose largest number is 127
        # steps of a length that has 16 bits itself.
        sizes = abs(weights.reshape(-1, 32))
        unit = sizes.max(axis=1, keepdims=True) if dtype == "q8_0" else sizes
        error = abs(numbers - weights).reshape(-1, 32)
        assert (error <= 1.01 * largest * unit + 1e-7).all() and error.max() > 0
    assert stored["blk.0.attn_norm.weight"].tensor_type.name == "F32"  # vectors stay whole


def test_llamas_queries_and_keys_have_their_halves_interleaved(tmp_path):
    loaded = make("llama")  # 4 heads of 16, 2 of them for keys
    export_gguf(loaded, tmp_path / "out", "model", "float32")
    stored, layer = tensors_of(tmp_path / "out" / "model.gguf"), loaded.model.model.layers[0].self_attn
    for theirs, ours, heads in (("attn_q", layer.q_proj, 4), ("attn_k", layer.k_proj, 2)):
        rows = torch.tensor(stored[f"blk.0.{theirs}.weight"].data)
        for head in range(heads):
            for i in range(8):
                assert torch.equal(rows[16 * head + 2 * i], ours.weight[16 * head + i])
                assert torch.equal(rows[16 * head + 2 * i + 1], ours.weight[16 * head + i + 8])
    assert torch.equal(torch.tensor(stored["blk.0.attn_v.weight"].data), layer.v_proj.weight)


def test_gpt2_is_transposed_and_its_tied_head_stored_once(tmp_path):
    loaded = make("gpt2")
    export_gguf(loaded, tmp_path / "out", "model", "float32")
    stored = tensors_of(tmp_path / "out" / "model.gguf")
    assert torch.equal(
        torch.tensor(stored["blk.1.attn_qkv.weight"].data), loaded.model.transformer.h[1].attn.c_attn.weight.T
    )
    assert "output.weight" not in stored and "position_embd.weight" in stored
    assert len(stored) == 2 + 2 * 12 + 2
    assert "output.weight" in tensors_of(export(make("gpt2 untied"), tmp_path / "untied"))


def export(loaded: Loaded, folder: Path, dtype: str = "float32") -> Path:
    export_gguf(loaded, folder, "model", dtype)
    return folder / "model.gguf"


def test_llama_3s_slower_positions_are_in_the_file(tmp_path):
    factors = tensors_of(export(make("llama llama3"), tmp_path / "out"))["rope_freqs.weight"].data
    for i, factor in enumerate(factors):  # the formula of Llama-3.1's model card, by hand
        wavelength = 2 * math.pi * 500000.0 ** (2 * i / 16)
        smooth = (32 / wavelength - 1) / (4 - 1)
        slow = 8.0 if wavelength > 32 else 1.0 if wavelength < 8 else 1 / ((1 - smooth) / 8 + smooth)
        assert factor == pytest.approx(slow, rel=1e-4)
    linear = export(make("llama linear"), tmp_path / "linear")
    assert value(linear, "llama.rope.scaling.type") == "linear" and value(linear, "llama.rope.scaling.factor") == 4.0


def test_the_metadata_describes_the_model_and_its_tokenizer(tmp_path):
    loaded = make("qwen3", vocab_size=260)  # three rows more than tokens
    file = export(loaded, tmp_path / "out")
    assert value(file, "general.architecture") == "qwen3"
    expected = {"block_count": 2, "embedding_length": 64, "attention.head_count_kv": 2, "attention.key_length": 32}
    assert {key: value(file, f"qwen3.{key}") for key in expected} == expected
    tokens, kinds = value(file, "tokenizer.ggml.tokens"), value(file, "tokenizer.ggml.token_type")
    assert tokens[EOS:] == ["<|endoftext|>", "[PAD257]", "[PAD258]", "[PAD259]"] and kinds[EOS:] == [3, 5, 5, 5]
    assert set(kinds[:EOS]) == {1}
    assert value(file, "tokenizer.ggml.eos_token_id") == EOS and value(file, "tokenizer.ggml.add_bos_token") is False
    assert value(file, "tokenizer.chat_template") == loaded.tokenizer.chat_template
    # Where attention looks back a window only, there is no more context than that: GGUF's llama has no window.
    assert context_length(make("mistral").model.config) == 48
    assert hyperparameters(make("gpt2 untied").model.config, EOS + 1)["feed_forward_length"] == 100


def with_regex(gpt2_tokenizer, regex: str):
    gpt2_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(regex), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return gpt2_tokenizer


# As the tokenizer.json of Llama-3 and Qwen2 have them.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_a_tokenizer_goes_by_how_it_cuts(gpt2_tokenizer, make_gpt2_tokenizer):
    def cut(regex: str, takes_whole_tokens: bool = False) -> str:
        backend = with_regex(make_gpt2_tokenizer(), regex).backend_tokenizer
        backend.model.ignore_merges = takes_whole_tokens
        return cut_of(backend)

    metadata = tokenizer_metadata(gpt2_tokenizer, 50257)
    assert metadata["ggml.pre"] == "gpt-2"
    assert metadata["ggml.merges"][0] == "Ġ t" and len(metadata["ggml.merges"]) == 50000
    assert cut(LLAMA_3, takes_whole_tokens=True) == "llama-bpe"
    assert cut(LLAMA_3.replace(r"{1,3}", "")) == "qwen2"
    with pytest.raises(UserError, match=r"llama\.cpp has no pre-tokenizer known here"):
        cut(r"\p{L}{1,2}|.")
    with pytest.raises(UserError, match="no byte-level BPE without merges"):
        tokenizer_metadata(byte_tokenizer(), EOS + 1)
    gpt2_tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match=r"does not normalise text, as this tokenizer does \(Lowercase\)"):
        tokenizer_metadata(gpt2_tokenizer, 50257)


def test_sentencepiece_joins_by_score_as_llama_cpp_does():
    vocab = {"▁": 0, "a": 1, "b": 2, "ab": 3, "▁a": 4, "bb": 5, "<0xC3>": 6, "<0xA4>": 7}
    joiner = ScoreJoiner(vocab, [0, 0, 0, -1.0, -2.0, -3.0, 0, 0])
    assert joiner.encode("▁abb") == [0, 3, 2]  # ab before ▁a: its score is higher
    assert joiner.encode("bbb") == [5, 2]  # leftmost first
    assert joiner.encode("aä") == [1, 6, 7]  # in bytes


def sentencepiece(*merges: tuple[str, str], more: tuple[str, ...] = ()):
    """Llama-2's kind of tokenizer, for texts of a and b; what else there is, in bytes."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b"]
    vocab = {word: i for i, word in enumerate([*words, *("".join(merge) for merge in merges), *more])}
    backend = Tokenizer(models.BPE(vocab, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    return tokenizer


def test_sentencepiece_tokens_score_by_when_they_were_learned():
    metadata = tokenizer_metadata(sentencepiece(("a", "b"), ("▁", "a")), 264)
    assert metadata["ggml.model"] == "llama" and metadata["ggml.add_space_prefix"] is True
    assert metadata["ggml.tokens"][262:] == ["ab", "▁a"] and metadata["ggml.scores"][262:] == [0.0, -1.0]
    assert metadata["ggml.token_type"] == [2, 3, 3, *[6] * 256, *[1] * 5]
    # A token that no merge makes: llama.cpp would make it all the same, and cut text otherwise.
    with pytest.raises(UserError, match=r"llama\.cpp would cut text otherwise"):
        tokenizer_metadata(sentencepiece(("a", "b"), more=("bb",)), 263)


@pytest.mark.parametrize("name", ["stories260k", "babyllama-char-970k"])
def test_real_sentencepiece_models(name, shared_data, tmp_path):
    loaded = load(str(shared_data / "models" / name))
    file = export(loaded, tmp_path / "out")
    assert value(file, "tokenizer.ggml.model") == "llama" and value(file, "tokenizer.ggml.add_bos_token") is True
    kinds = value(file, "tokenizer.ggml.token_type")
    assert kinds.count(6) == 256 and kinds[:3] == [2, 3, 3]


def test_chat_in_the_file_has_trainings_prompt_ids(tmp_path, capsys):
    from transformers import AutoTokenizer

    from auto_bot_tuner.data.prompt_format import PromptFormat
    from tests.test_export import CHAT

    convert("export", "--checkpoint", "tiny", "--format", "gguf", "--output", tmp_path / "out")
    out = capsys.readouterr().out
    assert "with config= given" in " ".join(out.split()) and "own in 7 of 7 texts" in " ".join(out.split())
    ours = load("tiny").tokenizer
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="tiny.gguf")
    ids = theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert ids == PromptFormat.from_tokenizer(ours).encode_prompt(CHAT)


def test_what_gguf_cannot_carry_is_said_in_one_line(tmp_path, monkeypatch):
    from transformers import GPTNeoXConfig

    with pytest.raises(UserError, match=r"carries gpt2, llama, mistral, qwen2, qwen3, and this model is gpt_neox"):
        check_config(GPTNeoXConfig())
    with pytest.raises(UserError, match="no gpt2 with activation_function = 'relu'"):
        check_config(make("gpt2", activation_function="relu").model.config)
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
    with pytest.raises(UserError, match="positions of type default, linear, llama3, not yarn"):
        check_config(make("llama", rope_parameters=yarn).model.config)
    from auto_bot_tuner.rlhf.reward_model import create_reward_model_from_pretrained

    base = save_byte_model(tmp_path / "base", "gpt2")
    for use_lora in (False, True):
        folder = tmp_path / f"reward-{use_lora}"
        reward_model = create_reward_model_from_pretrained(base, byte_tokenizer(), "cpu", use_lora=use_lora)
        reward_model.save_pretrained(folder, byte_tokenizer())
        with pytest.raises(UserError, match="is a reward model, which GGUF readers cannot run"):
            check_can_carry(str(folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="uv pip install gguf"):
        check_can_carry(str(base))


@pytest.mark.parametrize("format", ["gguf", "safetensors"])
def test_a_weight_beyond_float16_is_said(format, tmp_path):
    loaded = make("llama")
    with torch.no_grad():
        loaded.model.model.embed_tokens.weight[7] *= 1e7
    with pytest.raises(UserError, match=r"float16 cannot hold this model .* use --dtype bfloat16"):
        if format == "gguf":
            export_gguf(loaded, tmp_path / "out", "model", "float16")
        else:
            export_safetensors(loaded, tmp_path / "out", "float16")
    assert not list(tmp_path.iterdir())


def test_a_file_that_reads_back_as_another_model_is_not_left_there(tmp_path, monkeypatch):
    monkeypatch.setattr("auto_bot_tuner.export.gguf_model.layout", lambda weight, name, model: weight)
    with pytest.raises(UserError, match=r"reads back as another model, so it was deleted"):
        export_gguf(make("llama"), tmp_path / "out", "model", "float32")
    assert not (tmp_path / "out").exists() and not list(tmp_path.iterdir())
