"""Two to four commands for each verb, as one would type them: the end of its `--help`."""

from __future__ import annotations

# By verb, or verb and subcommand. What is bundled comes first, so that the first line of each runs as it stands.
EXAMPLES = {
    "train-sft": (
        "train-sft --model tiny --preset quick --dry-run",
        "train-sft --model gpt2 --dataset rows.jsonl --output-dir checkpoints/sft",
        "train-sft --model gpt2 --dataset yahma/alpaca-cleaned --max-samples 500 --learning-rate 1e-4",
        "train-sft --model gpt2 --dataset rows.jsonl --output-dir checkpoints/sft --resume",
    ),
    "train-reward": (
        "train-reward --model tiny --preset quick",
        "train-reward --model checkpoints/sft/final --dataset Anthropic/hh-rlhf --max-samples 2000",
        "train-reward --model checkpoints/sft/final --dataset pairs.jsonl --frozen-base",
    ),
    "train-dpo": (
        "train-dpo --model tiny --preset quick",
        "train-dpo --model checkpoints/sft/final --dataset pairs.jsonl --beta 0.1",
        "train-dpo --model checkpoints/sft/final --dataset pairs.jsonl --loss simpo --beta 2",
    ),
    "train-ppo": (
        "train-ppo --model tiny --preset quick --reward gold",
        "train-ppo --model checkpoints/sft/final --reward-model checkpoints/reward/final --dataset prompts.jsonl",
        "train-ppo --model checkpoints/sft/final --reward mine.py:score --dataset prompts.jsonl --kl-target 6",
    ),
    "train-grpo": (
        "train-grpo --model tiny --preset quick",
        "train-grpo --model checkpoints/sft/final --reward exact_match --dataset questions.jsonl",
        "train-grpo --model checkpoints/sft/final --reward mine.py:score 0.2*length:64 --dataset prompts.jsonl",
    ),
    "train-config": (
        "train-config configs/sft_tiny_quick.yaml",
        "train-config configs/sft_gpt2_quick.yaml --model distilgpt2 --learning-rate 1e-4",
        "train-config checkpoints/sft/config.yaml --resume",
    ),
    "inspect": (
        "inspect --model tiny --dataset tiny-instructions",
        "inspect --model gpt2 --dataset rows.jsonl --loss",
        "inspect --method dpo --model gpt2 --dataset pairs.jsonl",
    ),
    "chat": (
        "chat tiny",
        'chat checkpoints/sft/final --system "You answer in one sentence." --temperature 0',
        "chat meta-llama/Llama-3.2-1B-Instruct --max-new-tokens 256",
    ),
    "evaluate": (
        "evaluate perplexity --model tiny --dataset tiny-text",
        "evaluate compare --model checkpoints/sft/final --against gpt2 --dataset rows.jsonl",
    ),
    "evaluate perplexity": (
        "evaluate perplexity --model tiny --dataset tiny-text",
        "evaluate perplexity --model checkpoints/sft/final --dataset rows.jsonl --json perplexity.json",
    ),
    "evaluate generation": (
        "evaluate generation --model tiny --dataset tiny-instructions",
        'evaluate generation --model checkpoints/sft/final --prompt "Why is the sky blue?"',
    ),
    "evaluate accuracy": (
        "evaluate accuracy --model checkpoints/demo/sft/final --dataset tiny-instructions",
        "evaluate accuracy --model checkpoints/sft/final --dataset questions.jsonl --max-samples 0",
    ),
    "evaluate compare": (
        "evaluate compare --model checkpoints/demo/sft/final --against tiny --dataset tiny-instructions",
        'evaluate compare --model checkpoints/sft/final --against gpt2 --prompt "Why is the sky blue?"',
    ),
    "evaluate reward": (
        "evaluate reward --model checkpoints/demo/reward/final --dataset tiny-preferences",
        "evaluate reward --model checkpoints/reward/final --dataset pairs.jsonl --json reward.json",
    ),
    "evaluate winrate": (
        "evaluate winrate --model checkpoints/demo/dpo/final --against checkpoints/demo/sft/final",
        "evaluate winrate --model A --against B --dataset prompts.jsonl --judge checkpoints/reward/final",
    ),
    "evaluate benchmark": (
        "evaluate benchmark --tasks list",
        "evaluate benchmark --model gpt2 --tasks arc_easy hellaswag --limit 100",
    ),
    "frontier": (
        "frontier --model checkpoints/demo/sft/final --dataset tiny-prompts --reward gold",
        "frontier --model SFT --reward-model REWARD --dataset prompts.jsonl --beta 0.02 0.05 0.2",
    ),
    "reward-hacking": (
        "reward-hacking --quick",
        "reward-hacking --plot hacking.svg --json hacking.json",
    ),
    "report": (
        "report checkpoints/sft",
        "report checkpoints/sft checkpoints/dpo",
    ),
    "convert": (
        "convert merge-lora --lora-checkpoint checkpoints/sft/final --output merged",
        "convert export --checkpoint checkpoints/sft/final --format gguf --output exported",
    ),
    "convert merge-lora": ("convert merge-lora --lora-checkpoint checkpoints/sft/final --output merged",),
    "convert export": (
        "convert export --checkpoint checkpoints/sft/final --format safetensors --output exported",
        "convert export --checkpoint checkpoints/sft/final --format gguf --dtype q8_0 --output exported",
        "convert export --checkpoint checkpoints/sft/final --format ollama --output exported --name mine",
    ),
    "download": (
        "download model gpt2",
        "download dataset yahma/alpaca-cleaned",
        "download list",
    ),
    "download model": ("download model gpt2", "download model Qwen/Qwen2.5-0.5B-Instruct"),
    "download dataset": ("download dataset yahma/alpaca-cleaned", "download dataset Anthropic/hh-rlhf"),
    "download list": ("download list",),
    "push": (
        "push checkpoints/sft/final my-name/my-model --dry-run",
        "push checkpoints/sft/final my-name/my-model --private",
    ),
    "doctor": ("doctor", "doctor --json machine.json"),
    "completion": (
        'completion bash >> ~/.bash_completion',
        'completion zsh > ~/.auto_bot_tuner.zsh; echo "source ~/.auto_bot_tuner.zsh" >> ~/.zshrc',
        "completion fish > ~/.config/fish/completions/main.py.fish",
    ),
    "demo": (
        "demo --quick",
        "demo --json demo.json",
    ),
}  # fmt: skip
