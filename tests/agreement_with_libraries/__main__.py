"""``python -m tests.agreement_with_libraries``: ask every library again and write AGREEMENT.md."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# The checkout comes first on the path; where its native module was not built in place, an installed repsim is meant.
if not list((CHECKOUT / "repsim").glob("_core.*.so")):
    sys.path.sort(key=lambda entry: Path(entry).resolve() == CHECKOUT)
sys.path.insert(0, str(CHECKOUT / "tests"))  # oracles.py, agreement.py

from . import table, versions  # noqa: E402
from .claims import check  # noqa: E402
from .inputs import PAIRS  # noqa: E402


def main() -> int:
    """Returns 0, 1 where a claim does not hold (the page is written all the same), 2 where a library is missing."""
    reasons = [reason for reason in map(versions.missing, table.LIBRARIES) if reason]
    if reasons:
        print("\n".join(reasons), file=sys.stderr)
        return 2
    failures = 0
    for function, pair in table.ASKED:
        try:
            check(function, PAIRS[pair.name], table.ask(function, pair.name))
        except AssertionError as failure:
            failures += 1
            print(failure, file=sys.stderr)
    table.PAGE.write_text(table.page())
    print(f"{len(table.ASKED)} lines about {len(table.LIBRARIES)} libraries in {table.PAGE.name}, {failures} not held")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
