"""Objects that stay for good, such as loaded checkpoints."""

import gc


def freeze_heap() -> None:
    """Spare the garbage collector all that is there now: it would search it in each full round.

    Who freezes it in a process that goes on, or ends in good order, calls `gc.unfreeze` then.
    """
    gc.collect()
    gc.freeze()
