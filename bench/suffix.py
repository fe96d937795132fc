"""``python -m bench.suffix``: steps of GCG, repsim beside nanogcg, on the same CPU, model, request and settings."""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repsim.records import write_atomic

from . import machine, timer

SYSTEM = "You are a helpful assistant. Answer in full sentences, be polite, and say so when you do not know something."
REQUEST, TARGET = "describe how the kernel schedules threads", "Sure, the scheduler keeps a queue"
START = "x x x x x x x x x x"  # the same tokens for both
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A Llama of random weights, and the candidates of a step."""

    width: int
    layers: int
    candidates: int

    def __str__(self) -> str:
        return f"Llama, {self.layers} layers of {self.width}, {self.candidates} candidates a step"


CASES = (Case(128, 2, 128), Case(256, 4, 256))


def chat_model(case: Case) -> tuple[Any, Any]:
    """A model and a byte-level BPE tokenizer that was trained on Python's own documentation, with a chat template."""
    import pydoc_data.topics

    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(sorted(pydoc_data.topics.topics.values()), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=case.width, intermediate_size=8 * case.width // 3,
        num_hidden_layers=case.layers, num_attention_heads=case.width // 32, num_key_value_heads=case.width // 32,
        max_position_embeddings=256, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval(), tokenizer


def with_repsim(model: Any, tokenizer: Any, candidates: int) -> list[float]:
    from repsim.attacks.chat import Chat
    from repsim.attacks.suffix import SuffixAttack, suffix_attack

    config = SuffixAttack(steps=STEPS, width=candidates, top_k=256, init=START, early_stop=False)
    return list(suffix_attack(Chat(model, tokenizer, system=SYSTEM), REQUEST, TARGET, config).losses)


def with_nanogcg(model: Any, tokenizer: Any, candidates: int) -> list[float]:
    import nanogcg

    # Its prefix cache is off: transformers 5 refuses the tuples that it hands over.
    config = nanogcg.GCGConfig(
        num_steps=STEPS, search_width=candidates, topk=256, optim_str_init=" " + START, use_prefix_cache=False, seed=0,
        verbosity="ERROR",
    )  # fmt: skip
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": REQUEST + "{optim_str}"}]
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # its progress bar
        return list(nanogcg.run(model, tokenizer, messages, TARGET, config).losses)


CONTENDERS: dict[str, Callable[[Any, Any, int], list[float]]] = {
    "repsim.attacks.suffix": with_repsim,
    "nanogcg": with_nanogcg,
}


def measure(case: Case, repeats: int, pause: float) -> list[str]:
    """Lines of a table: seconds a step of either, after one call to warm up, in turns."""
    model, tokenizer = chat_model(case)
    jobs, losses = {}, {}
    for name, run in CONTENDERS.items():
        if name == "nanogcg" and not machine.version(name):
            continue
        losses[name] = run(model, tokenizer, case.candidates)

        def job(run: Callable[[Any, Any, int], list[float]] = run) -> float:
            return timer.seconds(lambda: run(model, tokenizer, case.candidates), lambda: None) / STEPS

        jobs[name] = job
    times = timer.rounds(jobs, turns=dict.fromkeys(jobs, repeats), pause=pause)
    first = statistics.median(times["repsim.attacks.suffix"])
    return [
        f"| {case} | {name} {machine.version(name) if name == 'nanogcg' else ''} | {statistics.median(own):.3f} | "
        f"{statistics.median(own) / first:.2f} | {losses[name][-1]:.3f} |"
        for name, own in times.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write where asked; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.suffix", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed searches of each (default: 5)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds of rest before each (default: 0.5)")
    parser.add_argument("--threads", type=int, help="native threads of torch (default: torch's own choice)")
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of the cases (default: all)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    lines = [
        "# GCG, seconds a step\n",
        *(f"- {name}: {value}" for name, value in machine.facts().items()),
        f"- torch {torch.__version__}, {torch.get_num_threads()} threads; medians of {options.repeats} searches of "
        f"{STEPS} steps, their setup included, after one to warm up\n",
        "| case | library | seconds a step | over repsim | loss of the last step |",
        "|---|---|---|---|---|",
    ]
    for case in CASES[: options.cases]:
        lines += measure(case, options.repeats, options.pause)
    page = "\n".join(lines) + "\n"
    print(page)
    if options.markdown:
        write_atomic(options.markdown, page.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
