"""Products that numpy leaves to BLAS, on as many threads as were asked for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Float64 blocks; fixed, so that no choice of the caller changes the order of the additions.
FEATURE_ROWS = 2048


@functools.lru_cache(maxsize=1)
def blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
