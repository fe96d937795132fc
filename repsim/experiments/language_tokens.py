"""The tokens of a language study: corpora read, split into what is probed, trained on and pre-trained on, and packed.

One cell of a study does it for all its models: it keeps the tokenizer, the blocks of every chunk and the probe texts in
a folder of the run. Documents are split before anything is packed, and a paragraph that comes again, in the same part
or in another one, is left out: collections of text repeat themselves, and what is probed or not shared must be new.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim import overlap
from repsim.experiments.sweep import Cell
from repsim.records import RunDirectory, without_home, write_atomic

if TYPE_CHECKING:
    from repsim.data.text import Corpus
    from repsim.data.tokens import TokenBlocks
    from repsim.experiments.language_pairs import LanguageStudyConfig

# Characters that are read for every token that is needed: tokenizers of large vocabularies make about five of one.
_CHARACTERS_PER_TOKEN = 6
_CHARACTERS_PER_WORD = 16  # of a passage; what is too long for the model is passed over
_EXAMPLES = 2  # of the texts of a probe, for the page
_HELD_OUT_BLOCKS = 8  # of every corpus, on which the loss of a trained model is measured
_BETWEEN_PARAGRAPHS = re.compile(r"\n\s*\n")
_TELLING_WORDS = 5  # of a paragraph; shorter ones (headings, `return None`) may come as often as they like


def tokens_cell(study: str, config: LanguageStudyConfig, *, base: Sequence[str] = (), base_blocks: int = 0) -> Cell:
    """The cell that prepares the tokens; its key holds a hash of every text that lies on this machine."""
    count = len(config.corpora)
    needs: dict[str, dict[str, Any]] = {
        source: {"pool": 0, "base": 0, "passages": 0} for source in (*config.corpora, *config.outside, *base)
    }
    for side in (config.corpora, config.outside):
        for source in side:
            needs[source]["passages"] = max(needs[source]["passages"], -(-config.probe // len(side)))
    for source in config.corpora:
        needs[source]["pool"] = config.chunks // count * config.chunk_blocks
    for number, source in enumerate(base):  # in equal parts, the first ones take the rest
        needs[source]["base"] = base_blocks // len(base) + (number < base_blocks % len(base))
    for source, need in needs.items():
        need["characters"] = _probe_characters(need, config.block, config.probe_words)
        need["characters"] += _CHARACTERS_PER_TOKEN * config.block * (need["pool"] + need["base"])
        need["sha256"] = _planned_hash(source, need["characters"])
    params = {
        "corpora": [located(source) for source in config.corpora],
        "outside": [located(source) for source in config.outside],
        "base": [located(source) for source in base],
        "needs": {located(source): need for source, need in needs.items()},
        "tokenizer": located(config.checkpoint) if config.checkpoint else {"vocabulary": config.vocabulary},
        "block": config.block,
        "chunks": config.chunks,
        "chunk_blocks": config.chunk_blocks,
        "probe": {"texts": config.probe, "words": config.probe_words},
        "repeated": "left out",  # of paragraphs: what an older run holds is not the same
    }
    return Cell(study, "tokens", params)


def located(source: str) -> str:
    """A file or folder by its whole path, so that it is found from anywhere, without the user's name; others as is.

    Example: ``located("notes.txt") == "~/project/notes.txt"`` in that folder.
    """
    path = Path(source).expanduser()
    return without_home(str(path.resolve())) if path.exists() else source


def _probe_characters(need: Mapping[str, Any], block: int, words: int) -> int:
    """How much text of a corpus is kept for the probe; none of one that only a base is trained on."""
    if not need["passages"]:
        return 0
    return _CHARACTERS_PER_WORD * words * need["passages"] + _CHARACTERS_PER_TOKEN * block * _HELD_OUT_BLOCKS


def _planned_hash(source: str, characters: int) -> str | None:
    """Of the text as it is now; None for a dataset of the hub, which a plan does not fetch."""
    return None if source.startswith("hub:") else _read(source, characters).sha256[:16]


@functools.lru_cache(maxsize=16)
def _read(source: str, characters: int) -> Corpus:
    from repsim.data.text import read_corpus

    return read_corpus(os.path.expanduser(source), characters=characters)


def chunk_positions(params: Mapping[str, Any], split: Mapping[str, Any]) -> overlap.CorpusSplit:
    """The chunks of two models, from the params of a tokens cell and what says how the models overlap."""
    count = len(params["corpora"])
    return overlap.corpus_overlap(
        np.repeat(np.arange(count), params["chunks"] // count),
        split["corpora"],
        alpha=split["alpha"],
        per_model=split["per_model"],
        seed=split["seed"],
    )


def prepare(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    """Read, tokenize, pack, and keep it: the work of a tokens cell."""
    from repsim.data.text import load_tokenizer, pack, passages, train_tokenizer

    params = cell.params
    block, needs, words = params["block"], params["needs"], params["probe"]["words"]
    corpora = {source: _as_planned(source, need) for source, need in needs.items()}
    probed: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for source, need in needs.items():
        probed[source], texts[source] = _parted(corpora[source].documents, _probe_characters(need, block, words))
    seen: set[bytes] = set()
    for part in (probed, texts):  # what is probed first: training goes without it
        for source, documents in part.items():
            part[source] = _unrepeated(documents, seen)
    trained_on = [source for source, need in needs.items() if need["pool"] + need["base"]]
    asked = params["tokenizer"]
    if isinstance(asked, str):
        tokenizer = load_tokenizer(os.path.expanduser(asked))
    else:
        tokenizer = train_tokenizer([text for source in trained_on for text in texts[source]], asked["vocabulary"])
    blocks: dict[str, list[np.ndarray]] = {"pool": [], "base": [], "held_out": []}
    packed = {source: pack(tokenizer, texts[source], block) for source in trained_on}
    for source in trained_on:
        need = needs[source]
        if len(packed[source]) < need["pool"] + need["base"]:
            raise ValueError(
                f"[tokens] expected {need['pool'] + need['base']} blocks of {block} tokens of {source}, got "
                f"{len(packed[source])}: ask for fewer chunks, or for shorter ones by chunk_blocks"
            )
    for source in params["corpora"]:
        blocks["pool"].append(packed[source][: needs[source]["pool"]])
        blocks["held_out"].append(pack(tokenizer, probed[source], block)[:_HELD_OUT_BLOCKS])
    for source in params["base"]:  # what no model of the design is trained on
        start = needs[source]["pool"]
        blocks["base"].append(packed[source][start : start + needs[source]["base"]])
    probe = {
        name: [
            text
            for source in params[side]
            for text in passages(
                tokenizer, probed[source], count=-(-params["probe"]["texts"] // len(params[side])), words=words,
                tokens=block,
            )
        ][: params["probe"]["texts"]]
        for name, side in (("in", "corpora"), ("out", "outside"))
    }  # fmt: skip
    folder = run.model_folder(cell.key)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    write_atomic(folder / "probe.json", json.dumps(probe).encode())
    content = io.BytesIO()
    arrays = {name: np.concatenate(parts) for name, parts in blocks.items() if parts}
    np.savez(content, vocabulary=np.int64(len(tokenizer)), **arrays)  # type: ignore[arg-type]
    write_atomic(folder / "blocks.npz", content.getvalue())
    load.cache_clear()
    found = load(str(folder))
    return {
        "saved": f"models/{cell.key}",
        "vocabulary": len(tokenizer),
        "characters": {source: corpus.characters for source, corpus in corpora.items()},
        "corpora_sha256": {source: corpus.sha256 for source, corpus in corpora.items()},
        "blocks": {name: len(found.blocks(name)) for name in arrays},
        "blocks_sha256": {name: found.blocks(name).content_hash() for name in arrays},
        "examples": {name: shown[:: max(1, len(shown) // _EXAMPLES)][:_EXAMPLES] for name, shown in probe.items()},
        "probe_sha256": {name: _text_hash(shown) for name, shown in probe.items()},
        "python": sys.version.split()[0],
    }


def _as_planned(source: str, need: Mapping[str, Any]) -> Corpus:
    corpus = _read(source, need["characters"])
    if need["sha256"] is not None and not corpus.sha256.startswith(need["sha256"]):
        raise ValueError(
            f"[tokens] expected the text of {source} that was planned, {need['sha256']}, got {corpus.sha256[:16]}: it "
            "was changed since, or Python was"
        )
    return corpus


def _parted(documents: Sequence[str], characters: int) -> tuple[list[str], list[str]]:
    """The first documents that make as many characters, the last of them cut at white space, and the rest."""
    lengths = np.cumsum([0, *(len(text) for text in documents)])
    last = int(np.searchsorted(lengths, characters)) - 1
    if last < 0:
        return [], list(documents)
    if last == len(documents):
        return list(documents), []
    text, place = documents[last], characters - int(lengths[last])
    while place < len(text) and not text[place].isspace():
        place += 1
    parts = [[*documents[:last], text[:place]], [text[place:], *documents[last + 1 :]]]
    first, rest = ([part for part in found if part.strip()] for found in parts)
    return first, rest


def _unrepeated(documents: Sequence[str], seen: set[bytes]) -> list[str]:
    """The documents without the paragraphs that were seen before, white space aside; those of this call are added."""
    kept = []
    for text in documents:
        paragraphs = []
        for paragraph in _BETWEEN_PARAGRAPHS.split(text):
            words = paragraph.split()
            digest = hashlib.blake2b(" ".join(words).encode(errors="replace"), digest_size=16).digest()
            if len(words) < _TELLING_WORDS or digest not in seen:
                paragraphs.append(paragraph)
                seen.add(digest)
        whole = "\n\n".join(paragraphs)
        if whole.strip():
            kept.append(whole)
    return kept


def _text_hash(texts: Sequence[str]) -> str:
    from repsim.data.text import Corpus

    return Corpus("probe", tuple(texts)).sha256


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a tokens cell has kept."""

    folder: str
    tokenizer: Any
    arrays: dict[str, np.ndarray]
    vocabulary: int
    probe: dict[str, list[str]]  # "in", of the corpora that models are trained on, and "out"

    def blocks(self, name: str) -> TokenBlocks:
        """The blocks "pool", "held_out" or "base"."""
        from repsim.data.tokens import TokenBlocks

        return TokenBlocks(self.arrays[name], self.vocabulary)

    def of_chunks(self, chunks: np.ndarray, chunk_blocks: int) -> TokenBlocks:
        """The blocks of some chunks of the pool."""
        return self.blocks("pool").take((chunks[:, None] * chunk_blocks + np.arange(chunk_blocks)).reshape(-1))


@functools.lru_cache(maxsize=2)
def load(folder: str) -> Tokens:
    """What a tokens cell has kept in a folder."""
    from repsim.data.text import load_tokenizer

    with np.load(Path(folder) / "blocks.npz") as file:
        arrays = {name: file[name] for name in file.files}
    vocabulary = int(arrays.pop("vocabulary"))
    probe = json.loads((Path(folder) / "probe.json").read_text(encoding="utf-8"))
    return Tokens(folder, load_tokenizer(folder), arrays, vocabulary, probe)
