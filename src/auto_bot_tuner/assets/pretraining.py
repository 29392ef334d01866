"""From text to a base model: tokenizer, packed rows, and a pre-training loop that fits on a page.

This is the stage that comes before everything the toolkit does. Real base models differ from this one in size alone:
the objective (predict the next token), the packing, the optimiser and the schedule are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from .text import documents

END = "<|endoftext|>"
CONTEXT = 256
WORKERS = 2  # as many as the machine has cores to spare; the batch is cut into equal parts
# GPT-2's rule for cutting text into words, with one change: every digit stands alone (`\p{N}` for `\p{N}+`). A model
# that sees "68" as one symbol must learn each sum by heart; one that sees "6" and "8" can learn to add.
WORD_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text in any language is some sequence of its tokens, since all 256 bytes are among them.

    It has one special token, which ends documents and answers. Like GPT-2's tokenizer it brings neither a pad token
    nor a chat template: what to do about that is part of what the toolkit teaches.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int, width: int = 160, layers: int = 4) -> GPT2LMHeadModel:
    """A GPT-2 with fresh weights. No dropout: no text is seen twice, so there is nothing to overfit."""
    torch.manual_seed(seed)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=width,
        n_layer=layers,
        n_head=width // 40,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own, as one fused operation: a quarter faster on a CPU
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config)


def packed_batches(tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Batches (B, CONTEXT) without end: documents with the end token between them, cut every `CONTEXT` tokens.

    Packing leaves no padding to waste time on. A row may hold pieces of several documents; the model learns that what
    stands before an end token says nothing about what follows.
    """
    stream, tokens, size = documents(seed), torch.empty(0, dtype=torch.long), batch_size * CONTEXT
    while True:
        ids = tokenizer([document + END for document in islice(stream, 2000)])["input_ids"]
        tokens = torch.cat([tokens, torch.tensor([token for document in ids for token in document])])
        whole = len(tokens) // size * size
        yield from tokens[:whole].view(-1, batch_size, CONTEXT)
        tokens = tokens[whole:]  # what did not fill a batch opens the next one


def learning_rate_at(step: int, steps: int, peak: float, warmup: int = 200, decay: float = 0.3) -> float:
    """Warm up, hold, then fall in a straight line to zero over the last `decay` of the steps.

    Most of the loss is lost in the fall, and the steps before it do not depend on when it comes: a longer run starts
    the same.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * min(1.0, (steps - step) / (decay * steps))


def gradients(model: GPT2LMHeadModel, rows: torch.Tensor) -> tuple[float, tuple[torch.Tensor, ...]]:
    """Loss and gradients of some rows. Every token but a row's first is a target: there is no prompt to mask."""
    with torch.autocast("cpu", dtype=torch.bfloat16):  # weights stay float32: only the matrix products are rounded
        logits = model(rows, use_cache=False).logits[:, :-1]  # (B, CONTEXT - 1, V): position t predicts token t + 1
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


def pretrain(
    model: GPT2LMHeadModel,
    batches: Iterable[torch.Tensor],
    steps: int,
    peak_learning_rate: float,
    save: Callable[[], None],
) -> None:
    """One pass over the text. `save` is called now and then, and at the end: an interrupted run leaves a model."""
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]  # biases and norms: decay would only bend them
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
    start = time.perf_counter()
    # Two workers take half of each batch and meet once a step. Two threads *inside* each operation would meet
    # hundreds of times a step, and for matrices as small as these the waiting costs more than the work.
    torch.set_num_threads(1)
    model.train()
    with ThreadPoolExecutor(WORKERS) as pool:
        for step, batch in enumerate(islice(batches, steps), start=1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step - 1, steps, peak_learning_rate)
            losses, halves = zip(*pool.map(partial(gradients, model), batch.chunk(WORKERS)), strict=True)
            for parameter, *shares in zip(parameters, *halves, strict=True):
                parameter.grad = sum(shares) / WORKERS  # equal parts: the mean of their means is the mean of all
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if step % 100 == 0:
                speed = step * batch.numel() / (time.perf_counter() - start)
                print(f"step {step}/{steps}  loss {sum(losses) / WORKERS:.3f}  {speed:,.0f} tokens/s", flush=True)
            if step % 500 == 0 or step == steps:
                save()
