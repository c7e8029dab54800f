"""Kernels to watts, seconds and joules: the cost models, their tables and the regularizer made of them."""
