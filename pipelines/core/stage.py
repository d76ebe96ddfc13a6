"""`python -m pipelines.core.stage MODULE …`: a stage as `python -m MODULE …` runs it, there sooner and with less work.

What imports make stays, so that the garbage collector looks through it in vain; and the threads that OpenBLAS starts when numpy is imported would
spin for a tenth of a second before they sleep.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys

SLEEP_AT_ONCE = ("OPENBLAS_THREAD_TIMEOUT", "4")  # the least there is: 2**4 cycles without work


def main() -> None:
    """Run the module that the command line names; `stage_main` switches the collector on again."""
    gc.disable()
    os.environ.setdefault(*SLEEP_AT_ONCE)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
