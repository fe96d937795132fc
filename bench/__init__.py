"""How fast repsim is beside its peers, on the same inputs, with the answers compared: ``python -m bench``."""
