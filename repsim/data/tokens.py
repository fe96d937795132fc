"""Token sequences of one length: what a language model is trained on, whatever they were made from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Sequences of tokens of equal length, and which of the tokens a model is to predict.

    >>> TokenBlocks(np.zeros((3, 128), np.int32), vocabulary=4096)

    Shorter sequences are filled up on the right with any token that is not counted: no causal model looks there.

    Args:
        tokens: int32 [n, t], each in [0, vocabulary).
        vocabulary: number of tokens there are.
        counted: bool [n, t], whose prediction counts in the loss; None: of all. The first of a block never does.
    Raises:
        TypeError, ValueError: arrays of another type or shape, tokens outside the vocabulary, nothing that counts.
    """

    tokens: np.ndarray
    vocabulary: int
    counted: np.ndarray | None = None

    def __post_init__(self) -> None:
        tokens = self.tokens
        if not isinstance(tokens, np.ndarray) or tokens.dtype != np.int32:
            got = tokens.dtype if isinstance(tokens, np.ndarray) else type(tokens).__name__
            raise TypeError(f"[TokenBlocks] expected tokens as an int32 array, got {got}")
        if tokens.ndim != 2 or len(tokens) < 1 or tokens.shape[1] < 2:
            raise ValueError(f"[TokenBlocks] expected tokens [n, t] with n >= 1 and t >= 2, got {list(tokens.shape)}")
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocabulary:
            raise ValueError(f"[TokenBlocks] expected tokens in [0, {self.vocabulary}), got {low if low < 0 else high}")
        counted = self.counted
        if counted is not None:
            if not isinstance(counted, np.ndarray) or counted.dtype != bool or counted.shape != tokens.shape:
                said = f"{counted.dtype} {list(counted.shape)}" if isinstance(counted, np.ndarray) else repr(counted)
                raise ValueError(f"[TokenBlocks] expected counted as bool {list(tokens.shape)} like tokens, got {said}")
            if not counted[:, 1:].any(axis=1).all():
                empty = int(np.flatnonzero(~counted[:, 1:].any(axis=1))[0])
                raise ValueError(f"[TokenBlocks] expected a counted token in every block, got none in block {empty}")

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, positions: np.ndarray | Sequence[int]) -> TokenBlocks:
        """The blocks at these positions.

        >>> blocks.take([0, 5])

        Args:
            positions: integers [m], m >= 1.
        """
        chosen = np.asarray(positions)
        counted = None if self.counted is None else self.counted[chosen]
        return TokenBlocks(self.tokens[chosen], self.vocabulary, counted)

    def content_hash(self) -> str:
        """SHA-256 over the shape, the tokens, and what is counted; the same on every machine.

        >>> blocks.content_hash()[:8]
        '5d0c1a7f'
        """
        digest = hashlib.sha256(f"{list(self.tokens.shape)} {self.vocabulary}\n".encode())
        digest.update(np.ascontiguousarray(self.tokens, "<i4").data)
        if self.counted is not None:
            digest.update(np.ascontiguousarray(self.counted).data)
        return digest.hexdigest()

    def targets(self) -> np.ndarray:
        """What every position but the last is to predict: the token behind it, -1 where that does not count.

        >>> TokenBlocks(np.array([[4, 5, 6]], np.int32), 10).targets()
        array([[5, 6]])

        Returns:
            int64 [n, t - 1].
        """
        behind = self.tokens[:, 1:].astype(np.int64)
        return behind if self.counted is None else np.where(self.counted[:, 1:], behind, -1)
