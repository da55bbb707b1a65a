"""Updates of small networks without autograd: multi-layer perceptrons and Adam on flat vectors of parameters.

``chain`` recognises networks that are plain chains of layers, ``flat`` keeps their parameters, gradients and moments
in one vector each, ``mlp`` computes them forward and backward, with the C++ of ``kernels.cpp`` where ``native`` can
build it and with torch otherwise.
"""
