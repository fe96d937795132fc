"""Text that every machine with Python has: the standard library's sources and documentation, split by kind.

The kinds differ as corpora do: documentation for readers, comments for colleagues, messages for users, code for the
interpreter, names of characters, tables of codecs. What exactly they hold depends on the version of Python; a hash of
the text belongs to every record.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import sysconfig
import tokenize
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

KINDS = {
    "topics": "the language reference, as help() shows it",
    "docstrings": "documentation of modules, classes and functions",
    "comments": "comments in the sources",
    "messages": "texts in the sources of three words or more that are no docstrings",
    "code": "the sources without comments and docstrings, with '...' in the place of messages",
    "characters": "names of the characters of Unicode, but for ideographs and syllables, which have numbers",
    "tables": "the tables of the codecs",
}
# Not on every machine, or not written for it.
_LEFT_OUT = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test",
             "tests", "turtledemo", "encodings"}  # fmt: skip
_SHORTEST = 200  # characters of a document; shorter ones of a file are put together


def python_documents(kind: str) -> Iterator[str]:
    """The documents of a kind, in an order that is fixed but follows no alphabet.

    >>> next(python_documents("docstrings"))

    Args:
        kind: one of KINDS.

    Returns:
        An iterator over texts that are not blank. Sources are read as they are asked for.
    Raises:
        ValueError for an unknown kind; FileNotFoundError where Python came without the sources of its library.
    """
    if kind not in KINDS:
        raise ValueError(f"[python_documents] expected kind one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "topics":
        from pydoc_data.topics import topics

        return iter([text.strip() + "\n" for _, text in sorted(topics.items(), key=lambda item: _mixed(item[0]))])
    if kind == "characters":
        return _characters()
    sources = _sources(only="encodings" if kind == "tables" else None)
    if not sources:
        raise FileNotFoundError(
            "[python_documents] expected the sources of Python's library in "
            f"{sysconfig.get_paths()['stdlib']}, got none"
        )
    readers: dict[str, Callable[[Path], list[str]]] = {
        "docstrings": _docstrings, "comments": _comments, "messages": _messages, "code": _code, "tables": _whole,
    }  # fmt: skip
    return (text for path in sources for text in _long_enough(readers[kind](path)))


def _mixed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


@lru_cache(maxsize=2)
def _sources(only: str | None) -> tuple[Path, ...]:
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for folder, inside, files in os.walk(root / (only or "")):
        inside[:] = set(inside) - _LEFT_OUT  # not even walked: site-packages may be large
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return tuple(sorted(found, key=lambda path: _mixed(path.relative_to(root).as_posix())))


def _long_enough(texts: list[str]) -> Iterator[str]:
    """Short texts of one file put together, so that a document says something."""
    gathered = ""
    for text in texts:
        gathered += text.strip() + "\n\n"
        if len(gathered) >= _SHORTEST:
            yield gathered
            gathered = ""
    if gathered.strip():
        yield gathered


def _whole(path: Path) -> list[str]:
    return [path.read_text(encoding="utf-8", errors="replace")]


@lru_cache(maxsize=64)  # syntax trees are large
def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a file for another version, or one that tests the parser
        return ast.Module(body=[], type_ignores=[])


def _documented(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Expr]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
            first = node.body[0]
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(first, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield node, first


def _docstrings(path: Path) -> list[str]:
    return [text for node, _ in _documented(_parsed(path)) if (text := ast.get_docstring(node))]  # type: ignore[arg-type]


def _messages(path: Path) -> list[str]:
    tree = _parsed(path)
    documentation = {id(first.value) for _, first in _documented(tree)}
    found = [
        node.value  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        if _is_message(node) and id(node) not in documentation
    ]
    return list(dict.fromkeys(found))  # a file says the same thing many times


def _is_message(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) >= 3


def _code(path: Path) -> list[str]:
    tree = ast.parse(ast.unparse(_parsed(path)))  # a copy: the parsed file serves other kinds, too
    for node, first in list(_documented(tree)):
        body = node.body  # type: ignore[attr-defined]
        body.remove(first)
        if not body and not isinstance(node, ast.Module):
            body.append(ast.Pass())
    for node in ast.walk(tree):
        if _is_message(node):  # they are a corpus of their own, which code must not share
            node.value = "..."  # type: ignore[attr-defined]
    return [ast.unparse(statement) for statement in tree.body]


def _comments(path: Path) -> list[str]:
    """Comments without their signs; lines that follow each other are one."""
    texts: list[str] = []
    before = -1
    try:
        for token in tokenize.generate_tokens(io.StringIO(_whole(path)[0]).readline):
            if token.type == tokenize.COMMENT:
                text = token.string.lstrip("#").strip()
                if token.start[0] == before + 1 and texts:
                    texts[-1] += f"\n{text}"
                else:
                    texts.append(text)
                before = token.start[0]
    except (tokenize.TokenError, SyntaxError):
        return []
    return [text for text in texts if text.strip()]


def _characters() -> Iterator[str]:
    """The names of every 64 code points, a line each."""
    for start in sorted(range(0, 0x20000, 64), key=lambda start: _mixed(str(start))):
        names = [unicodedata.name(chr(point), "") for point in range(start, start + 64)]
        # A digit in its last word, or a syllable's spelling: one of thousands that differ in a number.
        telling = [name for name in names if name and not name.startswith("HANGUL SYLLABLE")
                   and not any(sign.isdigit() for sign in name.split()[-1])]  # fmt: skip
        text = "\n".join(name.capitalize() for name in telling)
        if len(text) >= _SHORTEST:
            yield text + "\n"
