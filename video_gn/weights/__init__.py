"""Files of weights: opened, understood in their layouts, found by public names, inflated."""
