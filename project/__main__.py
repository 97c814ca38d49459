"""The command line, in an order that lets a signal end it while it still imports."""

import os
import sys
import traceback

from project.signals import Listening

starting = Listening(starting=True).__enter__()  # it stays until Python itself has ended

if __name__ == "__main__":
    from project.commands.predict import is_of_pictures, predict_alone

    if is_of_pictures(sys.argv[1:]):  # which needs no torch for an exported file
        try:
            code = predict_alone(sys.argv[2:])
        finally:
            starting.finish()
        sys.exit(code)

try:
    from project.cli import main
except ValueError as error:  # libraries read RANK, SLURM_PROCID, MPLBACKEND and the like
    if os.environ.get("PROJECT_TRACEBACK"):
        traceback.print_exc()
    print(f"error: a library refuses an environment variable: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    try:
        main()
    finally:
        starting.finish()
