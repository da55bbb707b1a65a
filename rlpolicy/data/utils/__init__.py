"""Helpers of the data floor: converters, the sum tree, and what works on single values of a batch."""
