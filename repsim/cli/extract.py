"""``repsim extract``: words to one call of `repsim.extraction`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from repsim.layout import MANIFEST
from repsim.store import Store
from repsim.terminal import DONE, INTERRUPTED, Bar, Parser, count, require_folder


def extract(words: Sequence[str]) -> int:
    """Run a model over data and write its layers to a store; the same words go on with an interrupted one.

    Example: ``extract(["gpt2", "sentences.txt", "-o", "gpt2.store"]) == 0``.
    """
    values = _parser().parse(words)
    path: Path = values["store"]
    attention: Path | None = values["attention"]
    if attention is not None:
        require_folder(attention)
    import torch
    import transformers

    from repsim.extraction import extract_layers, load_checkpoint, load_inputs, write_attention

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if values["threads"] is not None:
        torch.set_num_threads(values["threads"])
    inputs = load_inputs(values["data"], column=values["column"])
    checkpoint = load_checkpoint(
        values["model"],
        inputs.kind,
        revision=values["revision"],
        device=values["device"],
        precision=values["precision"],
        attention=attention is not None,
    )
    how = {"batch_size": values["batch_size"], "dtype": values["dtype"], "max_tokens": values["max_tokens"]}
    try:
        with Bar(str(path)) as bar:
            store = extract_layers(
                checkpoint, inputs, path, layers=values["layers"], pool=values["pool"], progress=bar, **how
            )
        print(f"{path}: {len(store)} rows of {len(store.layers)} layers, {values['dtype']}")
        if attention is not None:
            with Bar(str(attention)) as bar:
                write_attention(checkpoint, inputs, attention, progress=bar, **how)
            print(f"{attention}: attention maps of {len(inputs)} inputs")
    except KeyboardInterrupt:
        rows = len(Store.open(path)) if (path / MANIFEST).exists() else 0
        again = f"repsim extract {shlex.join(words)}"
        print(f"interrupted with {rows} rows in {path}; go on with: {again}", file=sys.stderr)
        return INTERRUPTED
    return DONE


def _parser() -> Parser:
    parser = Parser(
        prog="repsim extract",
        allow_abbrev=False,
        description="Run a model over images or texts and write what its layers put out to a store. An interrupted "
        "extraction goes on where it stopped when the same command is given again.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a Hugging Face id, a folder in its format, or timm:NAME")
    add("data", metavar="DATA", help="a folder of images, or a .txt (a text per line), .jsonl or .parquet file")
    add("-o", "--out", dest="store", metavar="STORE", type=Path, required=True, help="folder of the store")
    add("--layers", nargs="+", metavar="LAYER", help="names or patterns (default: every hidden state, hidden.*)")
    add("--pool", default="mean", help="mean, cls, last; text: mean_rest, word; images: flatten (default: %(default)s)")
    add("--dtype", choices=("float32", "float16"), default="float32", help="on disk (default: %(default)s)")
    add("--batch-size", type=count, default=32, metavar="N", help="inputs per forward pass (default: %(default)s)")
    add("--max-tokens", type=count, metavar="N", help="cut longer texts (default: too long a text is refused)")
    add("--column", default="text", metavar="NAME", help="of .jsonl and .parquet (default: %(default)s)")
    add("--attention", type=Path, metavar="FILE", help="write the attention maps of all layers to a .safetensors file")
    add("--revision", metavar="REV", help="branch, tag or commit of a Hugging Face id")
    add("--device", default="auto", help="of torch (default: a GPU where there is one)")
    add("--precision", choices=("float32", "float16", "bfloat16"), default="float32",
        help="of weights and arithmetic (default: %(default)s)")  # fmt: skip
    add("--threads", type=count, metavar="N", help="of torch (default: its own choice)")
    return parser
