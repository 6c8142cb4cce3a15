"""Training: the command line, the classifier around a network, and what happens around its steps."""
