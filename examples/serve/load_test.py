"""How fast the server answers: requests a second, p50 and p99.

python examples/serve/load_test.py PICTURE --url http://127.0.0.1:8000 --requests 500 --at_once 8
"""

import argparse
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx


def main() -> None:
    """Send one picture many times, and print what came back and when."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--at_once", type=int, default=8)
    options = parser.parse_args()
    content = options.picture.read_bytes()
    with httpx.Client(base_url=options.url, timeout=60) as client:

        def send(_: int) -> tuple[int, float]:
            start = time.perf_counter()
            answer = client.post("/predict", files=[("pictures", ("a", content))])
            return answer.status_code, time.perf_counter() - start

        try:
            send(0)
        except httpx.ConnectError as error:
            raise SystemExit(f"{options.url}: no server answers there ({error})") from None
        start = time.perf_counter()
        with ThreadPoolExecutor(options.at_once) as pool:
            answers = list(pool.map(send, range(options.requests)))
        seconds = time.perf_counter() - start
    times = sorted(taken for _, taken in answers)
    p50, p99 = (1000 * times[int(len(times) * part)] for part in (0.5, 0.99))
    codes = ", ".join(f"{code}: {n}" for code, n in Counter(code for code, _ in answers).items())
    print(f"{len(times) / seconds:.1f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms ({codes})")


if __name__ == "__main__":
    main()
