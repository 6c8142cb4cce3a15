"""Triton kernels: normalization + residual sum + ReLU, and max pooling with one-byte indices."""
