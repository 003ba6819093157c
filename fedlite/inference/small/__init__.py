"""A deep branch made smaller before it is exported: narrower, of low rank, taught by what it was.

Each step takes a model and returns another; stem and exit stay as they are, so early answers are
the same to the bit. Integers come last, in `fedlite.inference.quantized`.
"""
