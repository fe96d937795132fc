"""How alike models are in what they say: predicted classes, class probabilities, saliency maps, and sets of models; and
whether one can go on from where another stopped.
"""
