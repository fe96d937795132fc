"""repsim beside public libraries: every function of theirs that answers a question of ours, on the same inputs.

Who is right where they differ is for the float64 oracles in ``tests/oracles.py`` to say, never for repsim.
``python -m tests.agreement_with_libraries`` writes AGREEMENT.md; how to install the libraries: requirements.txt.
"""
