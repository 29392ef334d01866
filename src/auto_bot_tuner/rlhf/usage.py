"""How a trained reward model is asked for a score outside of this project: the part of its card that is code."""

from __future__ import annotations

from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.utils import saving

OPENING = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
"""
ASKING = """messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello! How are you?"}]
text = tokenizer.apply_chat_template(messages, tokenize=False)"""
USAGE = """## Use
One number for a prompt and a response. Over its training rows it is {offset:.4g} on average; with auto_bot_tuner,
`load_reward_model` subtracts that, other tools see it.

```python
{opening}
score = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits - ({offset:.6g})
```
`text` is the conversation in the tokenizer's chat template, up to and with the end token. One row at a time: for
batches transformers takes every pad id at the end for padding, and here the end token may have that id too.

"""


def usage_of(model: RewardModel, is_adapted: bool) -> str:
    """The card's section. An adapter needs its base first, where others can load that by its name."""
    name = model.config._name_or_path
    opening = (
        "from peft import PeftModel\n"
        f"{OPENING}"
        f"base = AutoModelForSequenceClassification.from_pretrained({name!r}, num_labels=1)\n"
        "model = PeftModel.from_pretrained(base, folder)"
        if is_adapted and saving.base_is_on_hub(model.model)
        else f"{OPENING}model = AutoModelForSequenceClassification.from_pretrained(folder)"
    )
    return USAGE.format(opening=f"{opening}\n{ASKING}", offset=model.offset)
