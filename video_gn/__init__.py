"""Video classification with Group Normalization, for when memory leaves only a few clips per GPU."""
