"""Corpora of text and what makes tokens of them: documents in, packed blocks of equal length out.

A corpus is named by its source: `python:docstrings` (what every machine has), a file or folder, or a dataset of the
Hugging Face hub, `hub:owner/name`. Tokenizers are trained here, without a network, and from the same texts come out the
same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from repsim.data.python_texts import python_documents

SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl", ".parquet")
END = "<|endoftext|>"  # between documents
# What libraries refuse a checkpoint with.
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, AttributeError)


@dataclass(frozen=True)
class Corpus:
    """Documents in order, none of them blank.

    >>> Corpus("notes", ("one document", "another"))
    """

    source: str
    documents: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.documents:
            raise ValueError(f"[Corpus] expected at least one document in {self.source}, got none")
        for place, text in enumerate(self.documents):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"[Corpus] expected document {place} of {self.source} as text that is not blank, got {text!r}"
                )

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over all documents: the same for the same texts, wherever they come from."""
        digest = hashlib.sha256()
        for text in self.documents:
            digest.update(json.dumps(text).encode() + b"\n")
        return digest.hexdigest()

    @property
    def characters(self) -> int:
        """Length of all documents together."""
        return sum(map(len, self.documents))


def read_corpus(source: str, *, characters: int | None = None) -> Corpus:
    """Read a corpus, or its first documents.

    >>> read_corpus("python:topics", characters=100_000).characters
    100741

    Args:
        source: `python:KIND`, see `python_documents`; a file (.txt, .md, .rst, .py: one document; .jsonl, .parquet: one
            for each row, of its column "text") or a folder of such files, in the order of their names; or
            `hub:owner/name`, a dataset of the hub or a folder in its format, with `:configuration`, `:split` (default
            train) and `:column` (default text) behind it where they are needed, as in
            `hub:Salesforce/wikitext:wikitext-2-raw-v1`.
        characters: stop after the document that makes as many; None: read all.

    Returns:
        A Corpus.
    Raises:
        FileNotFoundError: nothing at the path. ValueError: an unknown kind, file format, dataset or column; fewer
        characters than asked for.
    """
    if source.startswith("python:"):
        documents = python_documents(source.removeprefix("python:"))
    elif source.startswith("hub:"):
        documents = _dataset_documents(source)
    else:
        documents = _path_documents(Path(source))
    taken: list[str] = []
    length = 0
    for text in documents:
        if not text.strip():
            continue
        taken.append(text)
        length += len(text)
        if characters is not None and length >= characters:
            break
    if characters is not None and length < characters:
        raise ValueError(f"[read_corpus] expected {characters} characters in {source}, got {length}")
    return Corpus(source, tuple(taken))


def _path_documents(path: Path) -> Iterator[str]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise ValueError(f"[read_corpus] expected files of text ({', '.join(SUFFIXES)}) in {path}, got none")
    elif path.is_file():
        files = [path]
    else:
        raise FileNotFoundError(
            f"[read_corpus] expected python:KIND, hub:owner/name, or a file or folder of text, got {path}"
        )
    for file in files:
        yield from _file_documents(file)


def _file_documents(path: Path) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        from pyarrow import ArrowInvalid, parquet

        try:
            with parquet.ParquetFile(path) as file:
                names = file.schema_arrow.names
                if "text" not in names:
                    raise ValueError(f"[read_corpus] expected a column 'text' in {path}, got {', '.join(names)}")
                for batch in file.iter_batches(columns=["text"]):
                    yield from (text or "" for text in batch.column(0).to_pylist())
        except ArrowInvalid as error:
            raise ValueError(f"[read_corpus] expected a Parquet file, got {path}: {error}") from None
        return
    if suffix not in SUFFIXES:
        raise ValueError(f"[read_corpus] expected a file of {', '.join(SUFFIXES)}, got {path}")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"[read_corpus] expected {path} in UTF-8, got {error}") from None
    if suffix != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"[read_corpus] expected JSON in line {number} of {path}, got {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f"[read_corpus] expected an object with the text 'text' in line {number} of {path}")
        yield row["text"]


def _dataset_documents(source: str) -> Iterator[str]:
    """Rows of a dataset, streamed: no more is fetched than is read."""
    name, *rest = source.removeprefix("hub:").split(":")
    configuration, split, column = [*rest, *[""] * (3 - len(rest))][:3]
    split, column = split or "train", column or "text"
    if len(rest) > 3:
        raise ValueError(f"[read_corpus] expected hub:owner/name[:configuration[:split[:column]]], got {source}")
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f'[read_corpus] expected the library datasets for {source}: pip install "repsim-exact[datasets]"'
        ) from None
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split, streaming=True)
        found = rows.column_names or list(next(iter(rows)))
    except (OSError, ValueError, RuntimeError, KeyError, StopIteration) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"[read_corpus] expected a dataset that can be loaded, got {source}: {lines[0]}") from None
    if column not in found:
        raise ValueError(f"[read_corpus] expected a column {column!r} in {source}, got {', '.join(found)}")
    return (row[column] or "" for row in rows)


def train_tokenizer(texts: Sequence[str], vocabulary: int, *, cache: str | Path | None = None) -> Any:
    """Train a byte-level BPE tokenizer; the same texts give the same one.

    >>> len(train_tokenizer(corpus.documents, vocabulary=2000))
    2000

    Sennrich et al. 2016 (arXiv 1508.07909), over bytes as in GPT-2: any text can be told, and no token is unknown.

    Args:
        texts: to learn from; the number of threads does not matter.
        vocabulary: tokens, the 256 bytes and the end of a document among them; the result has fewer where the texts
            have no more pairs.
        cache: a folder where tokenizers are kept by their content: texts, vocabulary and the library's version.

    Returns:
        A fast tokenizer of transformers.
    Raises:
        ValueError for a vocabulary below 257 tokens or no texts.
    """
    import tokenizers
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < 257:
        raise ValueError(
            f"[train_tokenizer] expected vocabulary of at least 257 (256 bytes and {END}), got {vocabulary}"
        )
    if not texts:
        raise ValueError("[train_tokenizer] expected texts, got none")
    kept = None
    if cache is not None:
        content = f"{Corpus('texts', tuple(texts)).sha256} {vocabulary} {tokenizers.__version__}"
        kept = Path(cache) / hashlib.sha256(content.encode()).hexdigest()[:16]
        if (kept / "tokenizer.json").is_file():
            return transformers.PreTrainedTokenizerFast.from_pretrained(str(kept))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, bos_token=END)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(kept)
    return tokenizer


def split_revision(source: str) -> tuple[str, dict[str, str]]:
    """A folder or hub id, and what `from_pretrained` is told beside it: the revision behind an "@"; a folder has none.

    >>> split_revision("owner/name@main")
    ('owner/name', {'revision': 'main'})
    """
    if "@" not in source or Path(source).is_dir():
        return source, {}
    name, _, revision = source.rpartition("@")
    return name, {"revision": revision} if revision else {}


def why(error: BaseException) -> str:
    """The first line of what a library says, with what to do about a gated, missing or unreachable checkpoint.

    >>> why(OSError("x is not a local folder\\nand more"))
    'x is not a local folder'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    causes: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    for kind, advice in (
        ("GatedRepoError", "it is gated: accept its terms on the hub, then log in with `hf auth login`"),
        ("RepositoryNotFoundError", "the hub knows no such model, or it is private: check the name, or log in"),
        ("RevisionNotFoundError", "the model has no such revision"),
        ("LocalEntryNotFoundError", "it is not in the local cache and the hub cannot be reached"),
        ("OfflineModeIsEnabled", "it is not in the local cache and HF_HUB_OFFLINE forbids to ask the hub"),
    ):
        if kind in causes:
            return f"{said} ({advice})"
    return said


def load_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer of a checkpoint.

    >>> load_tokenizer("meta-llama/Llama-3.2-1B-Instruct").eos_token

    Args:
        source: folder or hub id, "owner/name" or with a revision "owner/name@revision".

    Returns:
        A fast tokenizer of transformers.
    Raises:
        ValueError where there is none, it cannot be loaded, or it has no end-of-text token to part documents with.
    """
    import transformers

    name, which = split_revision(str(source))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **which)
    except LOADING_ERRORS as error:
        raise ValueError(
            f"[load_tokenizer] expected a checkpoint with a tokenizer, got {source}: {why(error)}"
        ) from None
    if not tokenizer.is_fast:
        raise ValueError(f"[load_tokenizer] expected a fast tokenizer, got {type(tokenizer).__name__} of {source}")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"[load_tokenizer] expected a tokenizer with an end-of-text token, got {source} without one")
    return tokenizer


def pack(tokenizer: Any, documents: Sequence[str], block: int) -> np.ndarray:
    """Put documents one behind the other, each with an end-of-text token, and cut them into blocks.

    >>> pack(tokenizer, corpus.documents, block=128).shape
    (812, 128)

    Args:
        tokenizer: a fast one of transformers, with an end-of-text token.
        documents: texts.
        block: tokens of a block.

    Returns:
        int32 [n, block]; the tokens that fill no block are left out.
    Raises:
        ValueError for a block of fewer than 2 tokens, or documents that fill none.
    """
    if block < 2:
        raise ValueError(f"[pack] expected block of at least 2 tokens, got {block}")
    encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    end = [tokenizer.eos_token_id]
    stream = np.concatenate([np.array(tokens + end, np.int32) for tokens in encoded])
    count = len(stream) // block
    if count == 0:
        raise ValueError(f"[pack] expected documents of at least {block} tokens, got {len(stream)}")
    return stream[: count * block].reshape(count, block)


def passages(tokenizer: Any, documents: Sequence[str], *, count: int, words: int, tokens: int) -> list[str]:
    """Cut passages out of documents: as many words, or as many of them as a model can take.

    >>> passages(tokenizer, corpus.documents, count=300, words=40, tokens=128)

    Args:
        tokenizer: a fast one of transformers.
        documents: texts; white space parts words.
        count: passages, no two of the same words of a document.
        words: of each.
        tokens: the most that each may have; a passage with more is cut after its last word that fits.

    Returns:
        `count` texts of two words or more.
    Raises:
        ValueError where the documents do not hold as many.
    """
    found: list[str] = []
    for text in documents:
        split = text.split()
        for start in range(0, len(split) - words + 1, words):
            passage = split[start : start + words]
            while len(passage) > 1 and (length := _length(tokenizer, passage)) > tokens:
                passage = passage[: min(len(passage) - 1, len(passage) * tokens // length)]
            if len(passage) > 1:
                found.append(" ".join(passage))
            if len(found) == count:
                return found
    raise ValueError(f"[passages] expected {count} passages of {words} words in the documents, got {len(found)}")


def _length(tokenizer: Any, words: Sequence[str]) -> int:
    return len(tokenizer(" ".join(words), verbose=False)["input_ids"])
