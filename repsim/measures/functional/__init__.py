"""How alike models are in what they say: predicted classes, class probabilities, saliency maps, and sets of models.

Stitching is left out: it trains a layer between two models, and repsim measures outputs that are already there.
"""
