import gpu
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Tensors are small here, and threads cost more than they give; test_bits.py sets its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory):
    """The CUDA kernels as a module that runs on the CPU."""
    return gpu.build_on_cpu(tmp_path_factory.mktemp("cuda_on_cpu"))


@pytest.fixture
def on_cpu(request):
    """The CUDA kernels' functions, on the CPU's memory."""
    if gpu.REAL:
        pytest.skip("about kernels that run on the CPU")
    gpu.use("cuda", request)
    module = request.getfixturevalue("cuda_on_cpu")
    yield module
    module.run_blocks(0, 2**62)


@pytest.fixture(params=gpu.marked(gpu.BACKENDS))
def gpu_backend(request):
    """Each backend for GPUs: on one, or on what stands in for it."""
    return gpu.use(request.param, request)


@pytest.fixture(params=gpu.marked(gpu.EVERY))
def any_backend(request):
    """Every backend."""
    return gpu.use(request.param, request)
