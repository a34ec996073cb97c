import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors are small here, and threads cost more than they give; test_bits.py sets its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
