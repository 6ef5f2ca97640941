"""Was it memory that lacked?"""

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the host or the device had no memory left.

    torch has a class of its own for devices; on the host its allocator, and that of its matrix
    kernels, raise a plain RuntimeError.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
