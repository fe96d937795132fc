"""Training of the models that are compared: one module per kind of data, each with `train(config, data)`."""
