"""Loading and saving models: what comes out of a folder is what went in, and what cannot work says so in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from auto_bot_tuner.utils import saving
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.model_loading import get_device, load_model_and_tokenizer
from tests.models import gpt2_tokenizer, save_tiny_model

FAMILIES = ("gpt2", "llama", "qwen2")
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
IDS = torch.tensor([[50, 11, 4021, 13, 198, 50256, 7, 7]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: save_tiny_model(root / family, family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def plain_logits(folder: Path) -> torch.Tensor:
    """The oracle: transformers alone."""
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def adapted(folder: Path, **settings: object):
    """A LoRA model whose adapter has learnt something: B is no longer zero."""
    model, tokenizer, _ = load_model_and_tokenizer(folder, device="cpu", use_lora=True, **settings)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model, tokenizer


# --- the model -------------------------------------------------------------------------------------------------------


def test_full_model_gives_transformers_own_logits_and_trains_everything(folder: Path) -> None:
    model, tokenizer, device = load_model_and_tokenizer(str(folder))
    assert device == get_device()
    assert torch.equal(logits(model.cpu()), plain_logits(folder))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 50256


def test_bf16_file_trains_in_float32(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "bf16", "llama", dtype="bfloat16")
    model, *_ = load_model_and_tokenizer(folder, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert stored.dtype == torch.bfloat16 and torch.equal(model.model.norm.weight, stored.float())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_frozen_base_has_the_dtype_and_the_adapter_float32(folder: Path, dtype: str) -> None:
    model, *_ = load_model_and_tokenizer(folder, device="cpu", use_lora=True, dtype=dtype)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}


def test_frozen_model_may_have_any_dtype_and_trains_nothing(folders: dict[str, Path]) -> None:
    model, *_ = load_model_and_tokenizer(folders["llama"], device="cpu", dtype="bfloat16", frozen=True)
    assert {(p.dtype, p.requires_grad) for p in model.parameters()} == {(torch.bfloat16, False)}


def test_every_dropout_is_off(folders: dict[str, Path]) -> None:
    config = load_model_and_tokenizer(folders["gpt2"], device="cpu")[0].config
    assert (config.attn_pdrop, config.embd_pdrop, config.resid_pdrop) == (0.0, 0.0, 0.0)  # GPT-2's own are 0.1
    assert load_model_and_tokenizer(folders["llama"], device="cpu")[0].config.attention_dropout == 0.0


def test_a_pad_token_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m", "gpt2")
    tokenizer = gpt2_tokenizer()
    tokenizer.pad_token = "!"
    tokenizer.save_pretrained(folder)
    model, tokenizer, _ = load_model_and_tokenizer(folder, device="cpu")
    assert (tokenizer.pad_token, model.config.pad_token_id) == ("!", 0)


def test_run_folder_means_its_final(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["gpt2"], tmp_path / "final")
    assert torch.equal(logits(load_model_and_tokenizer(tmp_path, device="cpu")[0]), plain_logits(folders["gpt2"]))


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "targets"), [("gpt2", {"c_attn", "c_proj"}), ("llama", LINEAR), ("qwen2", LINEAR)])
def test_default_targets(folders: dict[str, Path], family: str, targets: set[str]) -> None:
    model, *_ = load_model_and_tokenizer(folders[family], device="cpu", use_lora=True)
    config = model.active_peft_config
    assert (config.r, config.lora_alpha, config.lora_dropout, set(config.target_modules)) == (16, 32, 0.0, targets)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[-4] for name in trained} == targets  # ….c_attn.lora_A.default.weight
    assert all("lora_" in name and "head" not in name for name in trained)


def test_a_new_adapter_changes_nothing_and_switched_off_it_is_the_base(folder: Path) -> None:
    fresh, *_ = load_model_and_tokenizer(folder, device="cpu", use_lora=True)
    assert torch.equal(logits(fresh), plain_logits(folder))
    model, _ = adapted(folder)
    assert (logits(model) - plain_logits(folder)).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(logits(model), plain_logits(folder))


@pytest.mark.parametrize("use_lora", [True, False])
def test_lora_checkpoint_goes_on_with_its_own_adapter(folder: Path, tmp_path: Path, use_lora: bool) -> None:
    model, tokenizer = adapted(folder, lora_r=4, lora_alpha=6)
    saving.save_weights(model, tokenizer, tmp_path / "checkpoint-1")
    again, _, _ = load_model_and_tokenizer(tmp_path / "checkpoint-1", device="cpu", use_lora=use_lora)
    assert torch.equal(logits(again), logits(model))
    assert again.active_peft_config.r == 4 and len(again.peft_config) == 1
    names = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (again, model)]
    assert names[0] == names[1] and names[0]


# --- saving ----------------------------------------------------------------------------------------------------------


def test_merged_weight_is_the_formula(folders: dict[str, Path]) -> None:
    """W' = W + (alpha / r) B A; GPT-2's Conv1D keeps W transposed."""
    model, _ = adapted(folders["gpt2"], lora_r=4, lora_alpha=6)
    layer = model.base_model.model.transformer.h[1].attn.c_attn
    b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    expected = layer.base_layer.weight + 6 / 4 * (b @ a).T
    torch.testing.assert_close(saving.merge(model).transformer.h[1].attn.c_attn.weight, expected)


def test_final_of_lora_on_a_local_base_works_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    for family in FAMILIES:
        base = shutil.copytree(folders[family], tmp_path / family)
        model, tokenizer = adapted(base)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        difference = saving.save_for_users(model, tokenizer, tmp_path / f"final-{family}")
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        own = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), tmp_path / f"final-{family}/adapter"
        )
        assert torch.equal(logits(own), logits(model))
        shutil.rmtree(base)  # another machine
        merged = plain_logits(tmp_path / f"final-{family}")
        assert (merged - logits(model)).abs().max() < 1e-5 and difference < 1e-5
        assert (merged - plain_logits(folders[family])).abs().max() > 1e-3


def test_final_of_lora_on_a_hub_base_is_a_plain_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = adapted(folders["gpt2"])
    model.active_peft_config.base_model_name_or_path = "openai-community/gpt2"
    assert saving.save_for_users(model, tokenizer, tmp_path / "final") == 0.0
    names = {path.name for path in (tmp_path / "final").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert not {"model.safetensors", "adapter", "README.md"} & names
    own = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders["gpt2"]), tmp_path / "final")
    assert torch.equal(logits(own), logits(model))


def test_final_of_a_full_model_carries_all_that_a_talk_needs(folder: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = load_model_and_tokenizer(folder, device="cpu")
    saving.save_for_users(model, tokenizer, tmp_path / "final", lambda aside: (aside / "README.md").touch() or None)
    assert torch.equal(plain_logits(tmp_path / "final"), logits(model))
    plain = AutoTokenizer.from_pretrained(tmp_path / "final")
    talk = [{"role": "user", "content": "Who?"}]
    assert plain.chat_template == tokenizer.chat_template
    assert plain.apply_chat_template(talk, tokenize=False) == tokenizer.apply_chat_template(talk, tokenize=False)
    stops = GenerationConfig.from_pretrained(tmp_path / "final")
    assert (stops.eos_token_id, stops.pad_token_id) == ([50256], 50256)
    assert (tmp_path / "final/README.md").exists() and not list(tmp_path.glob(".*"))


def test_stops_are_those_of_the_template_of_eos_and_of_the_base(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "chat", "llama")
    GenerationConfig(eos_token_id=[1, 50256], temperature=0.5, do_sample=False).to_json_file(
        folder / "generation_config.json"
    )
    tokenizer = gpt2_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\\\' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["\\\\"]})
    tokenizer.save_pretrained(folder)
    model, tokenizer, _ = load_model_and_tokenizer(folder, device="cpu")
    assert set(model.generation_config.eos_token_id) >= {1, 50256}
    saving.save_for_users(model, tokenizer, tmp_path / "final")  # the base's own settings contradict themselves
    stops = GenerationConfig.from_pretrained(tmp_path / "final").eos_token_id
    assert set(stops) >= {50256} and stops == model.generation_config.eos_token_id


def test_a_save_that_fails_leaves_the_older_one(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, _ = load_model_and_tokenizer(folders["gpt2"], device="cpu")
    saving.save_for_users(model, tokenizer, tmp_path / "final")

    def disk_is_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", disk_is_full)
    with pytest.raises(UserError, match="No space left on device") as refusal:
        saving.save_for_users(model, tokenizer, tmp_path / "final")
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert torch.equal(plain_logits(tmp_path / "final"), logits(model))
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_disk_that_lies_is_found_out(folders: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer, _ = load_model_and_tokenizer(folders["gpt2"], device="cpu")
    saving.save_weights(model, tokenizer, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.ln_f.weight"][3] += 1e-3
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"transformer\.ln_f\.weight does not read back"):
        saving.check_written(tmp_path, model.state_dict())


# --- what cannot work ------------------------------------------------------------------------------------------------


def edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1000]) and None


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def only_pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_eos(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))


BROKEN_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "holds no model"),
    "config is no JSON": (write("config.json", "{x"), "cannot be loaded .*JSON"),
    "config without a type": (write("config.json", "{}"), "cannot be loaded .*model_type"),
    "config with a wrong type": (edit_json("config.json", n_layer="two"), "cannot be loaded .*n_layer"),
    "unknown architecture": (edit_json("config.json", model_type="gpt77"), "cannot be loaded .*gpt77"),
    "encoder-decoder": (write("config.json", '{"model_type": "t5"}'), "encoder-decoder"),
    "its own code": (
        edit_json("config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}),
        "pass --trust-remote-code",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "pickled weights": (only_pickled, "only pickled weights .pytorch_model.bin."),
    "truncated weights": (cut("model.safetensors"), "missing or damaged"),
    "garbage weights": (write("model.safetensors", "hello"), "missing or damaged"),
    "a shard is missing": (
        lambda f: (
            (f / "model.safetensors").rename(f / "gone")
            and write("model.safetensors.index.json", '{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}')(f)
        ),
        "model-1.safetensors is missing",
    ),
    "index is no JSON": (
        lambda f: (f / "model.safetensors").unlink() or write("model.safetensors.index.json", "[")(f),
        "index.json is damaged",
    ),
    "a tensor is missing": (edit_weights(lambda t: t.pop("transformer.h.1.mlp.c_fc.weight")), "lacks the weights"),
    "another shape": (edit_json("config.json", n_positions=64), r"wpe.weight is \(128, 32\) in the file, \(64, 32\)"),
    "NaN": (
        edit_weights(lambda t: t["transformer.h.1.ln_1.weight"].fill_(float("nan"))),
        r"NaN or infinite weights in transformer\.h\.1\.ln_1\.weight:",
    ),
    "infinity": (
        edit_weights(lambda t: t["transformer.wpe.weight"][0, 0].fill_(float("-inf"))),
        r"infinite weights in transformer\.wpe\.weight:",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
    "damaged tokenizer": (write("tokenizer.json", '{"version": "1.0"'), "tokenizer of .* (damaged|cannot be read)"),
    "tokenizer without a model": (write("tokenizer.json", "{}"), "tokenizer of .* (damaged|cannot be read)"),
    "no end token": (no_eos, "no end token"),
    "vocabulary beyond the embedding": (
        lambda f: gpt2_with("<extra>").save_pretrained(f),
        "ids up to 50257, the model's embedding only 50257 rows",
    ),
}


def gpt2_with(token: str):
    tokenizer = gpt2_tokenizer()
    tokenizer.add_tokens([token])
    return tokenizer


@pytest.mark.parametrize("case", BROKEN_MODELS)
def test_broken_model_says_what_and_what_to_do(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["gpt2"], tmp_path / "broken")
    damage, message = BROKEN_MODELS[case]
    damage(folder)
    with pytest.raises(UserError, match=message) as refusal:
        load_model_and_tokenizer(folder, device="cpu", use_lora=True)
    line = str(refusal.value)
    assert "\n" not in line and len(line) < 400 and ":" in line and "broken" in line


BROKEN_ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "config is no JSON": (write("adapter_config.json", "{"), "adapter_config.json cannot be read"),
    "no LoRA": (edit_json("adapter_config.json", peft_type="IA3"), "not of a LoRA adapter"),
    "another task": (edit_json("adapter_config.json", task_type="TOKEN_CLS"), "adapter for TOKEN_CLS"),
    "a reward model": (edit_json("adapter_config.json", task_type="SEQ_CLS"), "is a reward model"),
    "no base named": (edit_json("adapter_config.json", base_model_name_or_path=None), "does not say which model"),
    "base is gone": (edit_json("adapter_config.json", base_model_name_or_path="/no/where/x"), "base model .* missing"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "no weights"),
    "damaged weights": (cut("adapter_model.safetensors"), "missing or damaged"),
    "another rank": (edit_json("adapter_config.json", r=8), "does not fit its base"),
    "layers that the base lacks": (
        edit_json("adapter_config.json", target_modules=["q_proj"]),
        "does not fit its base",
    ),
    "half of its layers": (edit_json("adapter_config.json", target_modules=["c_attn"]), "does not fit its base"),
}


@pytest.mark.parametrize("case", BROKEN_ADAPTERS)
def test_broken_adapter_says_what_and_what_to_do(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = adapted(folders["gpt2"])
    saving.save_weights(model, tokenizer, tmp_path)
    damage, message = BROKEN_ADAPTERS[case]
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        load_model_and_tokenizer(tmp_path, device="cpu")
    line = str(refusal.value)
    assert "\n" not in line and len(line) < 400 and ":" in line and tmp_path.name in line


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_lora": True, "lora_targets": ("q_proj",)}, r"no layer 'q_proj'; it has c_attn, c_fc, c_proj$"),
        ({"use_lora": True, "lora_targets": ("lm_head",)}, "no layer 'lm_head'"),
        ({"dtype": "bfloat16"}, "dtype bfloat16 is for frozen weights"),
        ({"load_in_4bit": True}, "needs LoRA"),
        ({"device": "tpu"}, "choose auto, cpu, cuda or mps"),
    ],
)
def test_settings_that_contradict_the_model(
    folders: dict[str, Path], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load_model_and_tokenizer(folders["gpt2"], **{"device": "cpu", **settings})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("settings", [{"load_in_4bit": True, "use_lora": True}, {"device": "cuda"}])
def test_what_needs_a_gpu_says_so(folders: dict[str, Path], settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"needs an NVIDIA or AMD GPU|device cuda is not usable"):
        load_model_and_tokenizer(folders["gpt2"], **settings)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoint-5").mkdir(parents=True)
    (tmp_path / "file.txt").touch()
    for name, message in [
        (tmp_path / "run", "did not finish; name a checkpoint in it, such as .*checkpoint-5"),
        (tmp_path / "file.txt", "is a file, not a model"),
        (tmp_path / "missing/a/b", "no model folder"),
    ]:
        with pytest.raises(UserError, match=message):
            load_model_and_tokenizer(name)
