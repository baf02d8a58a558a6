"""`python -m tests.store.writer DSN`: a writer in a process of its own, so that nobody's loop holds it up.

Updates one row again and again until its input ends, then prints how long each took, in ms.
"""

import asyncio
import json
import sys
import time

import asyncpg


async def write(dsn: str) -> None:
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    source = await asyncpg.connect(dsn)
    took: list[float] = []
    print("ready", flush=True)
    try:
        while not ended.done():
            started = time.perf_counter()
            await source.execute("UPDATE public.other SET n = n + 1 WHERE id = 1")
            took.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(0.002)
    finally:
        await source.close()
    print(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
