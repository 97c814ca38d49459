import os
import sys

from project.signals import Listening

starting = Listening(starting=True).__enter__()  # it stays until Python itself has ended

try:
    from project.cli import main
except ValueError as error:  # libraries read RANK, SLURM_PROCID, MPLBACKEND and the like
    if os.environ.get("PROJECT_TRACEBACK"):
        raise
    print(f"error: a library refuses an environment variable: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    try:
        main()
    finally:
        starting.finish()
