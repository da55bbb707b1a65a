"""What ``policy.compile()`` puts in the place of an update: the same equations without autograd."""
