"""Videos and images: lists, which frames make a clip, views, loaders. Lightning in `datamodule` alone."""
