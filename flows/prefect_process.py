"""A Prefect server as a process: `python -m flows.prefect_process PORT`, on this machine only.

Owns how it comes up sooner than by Prefect's own command: without that command line, and without collecting
garbage while nothing but imports makes objects. Knows nothing of runs; settings and home are Prefect's.
"""

from __future__ import annotations

import gc
import sys

KEEP_ALIVE_S = 5


def main(port: int) -> None:
    """Serve until the process is told to end."""
    gc.disable()
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(final=True)
    gc.freeze()
    gc.enable()
    uvicorn.run(app, host="127.0.0.1", port=port, timeout_keep_alive=KEEP_ALIVE_S, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
