"""Text: what every machine has, files, datasets, tokenizers, blocks and passages; and their overlap."""

from __future__ import annotations

import builtins
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from repsim.data.python_texts import KINDS, python_documents
from repsim.data.text import END, Corpus, load_tokenizer, pack, passages, read_corpus, train_tokenizer
from repsim.data.tokens import TokenBlocks
from repsim.overlap import corpus_overlap

TEXTS = (
    "the cat sat on the mat\n",
    "representations become alike, they say; naïve tokens, too\n",
    "the mat, the cat\n",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS * 20, 290)


# -------------------------------------------------------------------------------------------------- what Python brings


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_text_for_a_small_study(kind: str) -> None:
    corpus = read_corpus(f"python:{kind}", characters=20_000)
    assert 20_000 <= corpus.characters < 120_000
    assert corpus.sha256 == read_corpus(f"python:{kind}", characters=20_000).sha256


def test_the_kinds_are_what_they_say() -> None:
    texts = {kind: "\n".join(read_corpus(f"python:{kind}", characters=20_000).documents) for kind in KINDS}
    compile(texts["code"], "code", "exec")  # whole statements, without what documents them
    assert not any(line.lstrip().startswith('"""') for line in texts["code"].splitlines())
    assert "letter" in texts["characters"]
    assert "charmap" in texts["tables"] or "decoding" in texts["tables"]
    words = [set(text.split()) for text in texts.values()]
    shared = [len(a & b) / min(len(a), len(b)) for k, a in enumerate(words) for b in words[:k]]
    assert max(shared) < 0.5  # six corpora in truth, not one under six names


def test_docstrings_and_comments_are_found_as_the_library_finds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = ['"""About all."""', "# one", "# two", "x = 1  # three", "", "def f():", '    """About f."""',
             '    raise ValueError("it is not right")', ""]  # fmt: skip
    (tmp_path / "one.py").write_text("\n".join(lines))
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "left_out.py").write_text('"""Not this."""\n')
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    from repsim.data import python_texts

    python_texts._sources.cache_clear()
    try:
        found = {kind: "".join(python_documents(kind)) for kind in ("docstrings", "comments", "messages", "code")}
    finally:
        python_texts._sources.cache_clear()
    assert found["docstrings"] == "About all.\n\nAbout f.\n\n"
    assert found["comments"] == "one\ntwo\nthree\n\n"
    assert found["messages"] == "it is not right\n\n"
    assert found["code"] == "x = 1\n\ndef f():\n    raise ValueError('...')\n\n"


def test_a_python_without_sources_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from repsim.data import python_texts

    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    python_texts._sources.cache_clear()
    try:
        with pytest.raises(FileNotFoundError, match="expected the sources of Python's library"):
            read_corpus("python:code")
    finally:
        python_texts._sources.cache_clear()


# ------------------------------------------------------------------------------------------------ files and datasets


def test_files_and_folders_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n\n{"text": "then"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["third", None, " "]}), tmp_path / "c.parquet")
    (tmp_path / "picture.png").write_bytes(b"no text")
    assert read_corpus(str(tmp_path)).documents == ("first", "then", "second", "third")
    assert read_corpus(str(tmp_path), characters=6).documents == ("first", "then")


def test_a_dataset_of_the_hub_is_read_by_its_path(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(
        "".join(json.dumps({"story": f"story {k}"}) + "\n" for k in range(9))
    )
    corpus = read_corpus(f"hub:{tmp_path}::train:story", characters=20)
    assert corpus.documents == ("story 0", "story 1", "story 2")
    with pytest.raises(ValueError, match=r"expected a column 'text' in hub:.*, got story"):
        read_corpus(f"hub:{tmp_path}")
    with pytest.raises(ValueError, match="expected a dataset that can be loaded"):
        read_corpus(f"hub:{tmp_path}::validation:story")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        pytest.param("python:poems", ValueError, "expected kind one of topics, .*, got 'poems'", id="kind"),
        pytest.param("no/such.txt", FileNotFoundError, "expected python:KIND, hub:owner/name, or a file", id="no-file"),
        pytest.param("{}/a.png", ValueError, "expected a file of .txt, .*, got", id="suffix"),
        pytest.param("{}/empty", ValueError, r"expected files of text \(.txt, .*\) in .*, got none", id="empty-folder"),
        pytest.param("{}/bad.jsonl", ValueError, "expected JSON in line 2 of", id="no-json"),
        pytest.param("{}/fields.jsonl", ValueError, "expected an object with the text 'text' in line 1", id="no-field"),
        pytest.param("{}/bytes.txt", ValueError, "in UTF-8", id="no-utf-8"),
        pytest.param("{}/other.parquet", ValueError, "expected a column 'text' in .*, got line", id="no-column"),
        pytest.param("{}/none.parquet", ValueError, "expected a Parquet file", id="no-parquet"),
        pytest.param("{}/blank.txt", ValueError, "expected at least one document in .*, got none", id="blank"),
        pytest.param("hub:a:b:c:d:e", ValueError, r"expected hub:owner/name\[:configuration", id="hub-parts"),
    ],
)
def test_what_cannot_be_read(source: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files = {"a.png": b"x", "bad.jsonl": b'{"text": "x"}\n{', "fields.jsonl": b'{"line": 1}\n',
             "bytes.txt": b"\xff\xfe\xff", "none.parquet": b"no", "blank.txt": b" \n"}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.table({"line": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(error, match=message):
        read_corpus(source.format(tmp_path))


def test_too_little_text_says_how_much_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("seven c")
    with pytest.raises(ValueError, match=r"expected 100 characters in .*a.txt, got 7"):
        read_corpus(str(tmp_path / "a.txt"), characters=100)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r'pip install "repsim-exact\[datasets\]"'):
        read_corpus("hub:owner/name")


@pytest.mark.parametrize(("documents", "message"), [((), "at least one document"), (("a", " "), "document 1 of x")])
def test_a_corpus_has_documents(documents: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corpus("x", documents)


# --------------------------------------------------------------------------------------------------------- tokenizers


def test_the_same_texts_give_the_same_tokenizer_in_another_process(tokenizer: Any, tmp_path: Path) -> None:
    code = (
        f"from repsim.data.text import train_tokenizer; t = train_tokenizer({TEXTS * 20!r}, 290); "
        f"t.save_pretrained({str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=None, timeout=120)
    again = json.loads((tmp_path / "tokenizer.json").read_text())
    assert again == json.loads(tokenizer.backend_tokenizer.to_str())
    assert len(tokenizer) == 290
    assert load_tokenizer(tmp_path).eos_token == END


def test_any_text_can_be_told_and_comes_back(tokenizer: Any) -> None:
    for text in (*TEXTS, "日本語 \U0001f600\t\x00"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_cached_tokenizer_is_that_of_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_tokenizer(TEXTS, 270, cache=tmp_path)
    train_tokenizer(TEXTS, 271, cache=tmp_path)
    train_tokenizer(TEXTS[:2], 270, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr("tokenizers.Tokenizer.train_from_iterator", lambda *rest: pytest.fail("trained again"))
    assert train_tokenizer(TEXTS, 270, cache=tmp_path)("the cat") == first("the cat")


@pytest.mark.parametrize(
    ("texts", "vocabulary", "message"),
    [(TEXTS, 256, "vocabulary of at least 257"), ((), 300, "expected texts, got none")],
)
def test_what_no_tokenizer_can_be_trained_on(texts: tuple[str, ...], vocabulary: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, vocabulary)


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a checkpoint with a tokenizer, got"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_the_hub_keeps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def refuse(name: str, **options: Any) -> Any:
        assert (name, options) == ("owner/name", {"revision": "main"})
        raise OSError("no access to owner/name.\nA page of text follows.") from type(
            "GatedRepoError", (Exception,), {}
        )()

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    advice = r"got owner/name@main: no access to owner/name. \(it is gated: accept its terms on the hub, then log in"
    with pytest.raises(ValueError, match=advice):
        load_tokenizer("owner/name@main")


def test_a_tokenizer_without_an_end_of_text(tmp_path: Path, tokenizer: Any) -> None:
    import transformers

    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a tokenizer with an end-of-text token"):
        load_tokenizer(tmp_path)


# ---------------------------------------------------------------------------------------------- blocks and passages


def test_blocks_hold_the_documents_one_behind_the_other(tokenizer: Any) -> None:
    blocks = pack(tokenizer, TEXTS, 8)
    assert blocks.dtype == np.int32
    assert blocks.shape[1] == 8
    whole = END.join([*TEXTS, ""])
    assert whole.startswith(tokenizer.decode(blocks.reshape(-1)))
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in TEXTS)
    assert len(blocks) == tokens // 8


@pytest.mark.parametrize(("block", "message"), [(1, "block of at least 2"), (500, "documents of at least 500 tokens")])
def test_what_fills_no_block(block: int, message: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pack(tokenizer, TEXTS, block)


def test_passages_have_their_words_or_what_fits(tokenizer: Any) -> None:
    text = " ".join(f"word{k}" for k in range(40))
    assert passages(tokenizer, [text], count=4, words=10, tokens=500) == [
        " ".join(f"word{k}" for k in range(start, start + 10)) for start in (0, 10, 20, 30)
    ]
    short = passages(tokenizer, [text], count=4, words=10, tokens=20)
    assert all(len(tokenizer(passage)["input_ids"]) <= 20 and len(passage.split()) >= 2 for passage in short)
    assert [passage.split()[0] for passage in short] == ["word0", "word10", "word20", "word30"]
    with pytest.raises(ValueError, match="expected 5 passages of 10 words in the documents, got 4"):
        passages(tokenizer, [text], count=5, words=10, tokens=500)


def test_targets_are_the_tokens_behind() -> None:
    tokens = np.array([[4, 5, 6], [7, 8, 9]], np.int32)
    assert TokenBlocks(tokens, 10).targets().tolist() == [[5, 6], [8, 9]]
    counted = np.array([[True, False, True], [False, True, False]])
    assert TokenBlocks(tokens, 10, counted).targets().tolist() == [[-1, 6], [8, -1]]
    taken = TokenBlocks(tokens, 10, counted).take([1])
    assert taken.targets().tolist() == [[8, -1]]


def test_a_hash_of_blocks_knows_what_a_training_depends_on() -> None:
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    mask = np.ones((3, 4), bool)
    mask[0, 2] = False
    variants = [
        TokenBlocks(tokens, 12), TokenBlocks(tokens, 13), TokenBlocks(tokens[::-1].copy(), 12),
        TokenBlocks(tokens.reshape(4, 3), 12), TokenBlocks(tokens, 12, np.ones((3, 4), bool)),
        TokenBlocks(tokens, 12, mask),
    ]  # fmt: skip
    assert len({blocks.content_hash() for blocks in variants}) == len(variants)
    assert TokenBlocks(tokens.copy(), 12).content_hash() == variants[0].content_hash()


@pytest.mark.parametrize(
    ("tokens", "counted", "error", "message"),
    [
        pytest.param([[1, 2]], None, TypeError, "as an int32 array, got list", id="list"),
        pytest.param(np.zeros((2, 3)), None, TypeError, "as an int32 array, got float64", id="floats"),
        pytest.param(np.zeros(3, np.int32), None, ValueError, r"tokens \[n, t\] .*, got \[3\]", id="one-axis"),
        pytest.param(np.zeros((3, 1), np.int32), None, ValueError, r"t >= 2, got \[3, 1\]", id="one-token"),
        pytest.param(np.full((1, 2), 5, np.int32), None, ValueError, r"tokens in \[0, 5\), got 5", id="too-large"),
        pytest.param(np.full((1, 2), -1, np.int32), None, ValueError, r"tokens in \[0, 5\), got -1", id="negative"),
        pytest.param(np.zeros((2, 2), np.int32), np.ones((2, 3), bool), ValueError, r"counted as bool \[2, 2\]",
                     id="mask"),
        pytest.param(np.zeros((2, 2), np.int32), np.array([[True, True], [True, False]]), ValueError, "none in block 1",
                     id="nothing-counts"),
    ],
)  # fmt: skip
def test_bad_blocks(tokens: Any, counted: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TokenBlocks(tokens, 5, counted)


# -------------------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_forty_of_eighty_chunks_share_exactly_alpha(alpha: float, seed: int) -> None:
    split = corpus_overlap(np.zeros(80, int), 1, alpha=alpha, per_model=1, seed=seed)
    first, second = set(split.first.tolist()), set(split.second.tolist())
    assert len(first) == len(second) == 40
    assert len(first & second) == 40 * alpha
    assert split.realised == alpha
    assert split.first.tolist() == corpus_overlap(np.zeros(80, int), 1, per_model=1, seed=seed).first.tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared", range(4))
def test_three_of_six_corpora_share_exactly_as_many(shared: int, seed: int) -> None:
    chunks = np.repeat(np.arange(6), 16)
    for alpha in (0.0, 0.5, 1.0):
        split = corpus_overlap(chunks, shared / 3, alpha=alpha, seed=seed)
        assert len(split.first) == len(split.second) == 24
        assert {*chunks[split.first]} == {*split.corpora_first}
        assert {*chunks[split.second]} == {*split.corpora_second}
        common = set(split.corpora_first) & set(split.corpora_second)
        assert len(common) == shared
        both = np.intersect1d(split.first, split.second)
        assert np.bincount(chunks[both], minlength=6).tolist() == [8 * alpha * (c in common) for c in range(6)]
        assert split.realised == pytest.approx(alpha * shared / 3)
        assert split.realised_corpora == pytest.approx(shared / 3)


def test_larger_overlaps_keep_what_smaller_ones_shared() -> None:
    chunks = np.repeat(np.arange(6), 16)
    splits = [corpus_overlap(chunks, 2 / 3, alpha=alpha, seed=0) for alpha in (0, 0.25, 0.5, 1)]
    shared = [set(np.intersect1d(split.first, split.second).tolist()) for split in splits]
    assert all(small < large for small, large in itertools.pairwise(shared))
    corpora = [set(corpus_overlap(chunks, k / 3, seed=0).corpora_second) for k in range(4)]
    first = set(corpus_overlap(chunks, 1, seed=0).corpora_first)
    kept = [first & second for second in corpora]
    assert all(small < large for small, large in itertools.pairwise(kept))


@pytest.mark.parametrize(
    ("chunks", "options", "message"),
    [
        pytest.param([0, 0, 1], {}, r"as many chunks in each corpus, an even number, got \[2, 1\]", id="unequal"),
        pytest.param([0, 1], {}, "an even number", id="odd"),
        pytest.param(
            [0, 0],
            {"corpora": 0.5},
            "expected corpora 1 and per_model 1 of a single corpus, got 0.5 and 0",
            id="single",
        ),
        pytest.param([0, 0, 1, 1], {"per_model": 2, "corpora": 0}, "per_model such that two sets", id="too-many"),
        pytest.param([0, 0, 1, 1], {"alpha": 1.5}, r"alpha in \[0, 1\], got 1.5", id="alpha"),
    ],
)
def test_bad_overlaps(chunks: list[int], options: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"corpora": 1.0, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        corpus_overlap(np.array(chunks), **settings)
