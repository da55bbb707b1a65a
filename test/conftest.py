"""For all tests."""

import torch

# networks of test size are dispatch, not arithmetic: a second thread only waits for the first, on a busy machine long
torch.set_num_threads(1)
