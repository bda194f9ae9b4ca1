"""How much of an endpoint's allowed rate the judge's client reaches, and the memory that 100,000 judgments take.

    python benchmarks/judge.py [--allowed 3000] [--seconds 40] [--judgments 100000] [--asked 5000] [--quick]

Rate: a server on loopback answers after 0.3 s and allows so many requests a minute, a second's worth of which it saves
up; more get a 429. Ours is told the limit, or not. The alternatives use the openai client with its own retries: one
request after the other, or all at once (`asyncio.gather`). Reached: answers by the minute of the time it took, without
starting the interpreter. Memory: the peak of a process that judges a file of responses of 1,000 characters, of which
all but `asked` are in the cache; the alternative holds responses and replies in lists, as loops over a file do.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import openai
from measuring import in_child, markdown_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

from emdefense.files import read_json, read_jsonl
from emdefense.judging.cache import Cache
from emdefense.judging.judge_file import judge_file
from emdefense.judging.registry import parse_settings
from emdefense.judging.requests import all_requests, probes
from emdefense.judging.responses import ResponseFile
from judge_runs import judge_settings, write_input
from loopback_judge import KEY, MODEL, LoopbackJudge, reply_to

LATENCY = 0.3
ONE_BY_ONE = 40  # requests, enough to know how fast that is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allowed", type=int, default=3000, help="requests a minute")
    parser.add_argument("--seconds", type=float, default=40, help="that the limit makes a run take")
    parser.add_argument("--judgments", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=5000)
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    given = parser.parse_args()
    if given.quick:
        given.allowed, given.seconds, given.judgments, given.asked = 1200, 2, 200, 20
    os.environ["OPENAI_API_KEY"] = KEY
    rates, memory = rate_rows(given.allowed, given.seconds), memory_rows(given.judgments, given.asked)
    header = ["what", "reached", "of the allowed rate", "429s an answer", "peak MB", "ratio to ours"]
    print(markdown_table(header, [*rates, *memory]))


def rate_rows(allowed: int, seconds: float) -> list[list[str]]:
    """Requests a minute of each way to ask."""
    count = int(allowed / 60 * seconds)
    places = int(2 * LATENCY * allowed / 60) + 1
    found = {
        "ours, told the limit": rate(allowed, count, {"requests_per_minute": allowed, "concurrency": places}),
        "ours, not told": rate(allowed, count, {"concurrency": places}),
        "openai client, all at once": rate(allowed, count, None),
        "openai client, one by one": rate(allowed, min(count, ONE_BY_ONE), None, at_once=False),
    }
    ours = next(iter(found.values()))[0]
    return [
        [
            f"{name}, {allowed:,} a minute",
            f"{reached:,.0f}",
            f"{reached / allowed:.0%}",
            limited,
            "",
            f"{reached / ours:.2f}",
        ]
        for name, (reached, limited) in found.items()
    ]


def rate(allowed: int, count: int, settings: dict[str, object] | None, at_once: bool = True) -> tuple[float, str]:
    """Answers a minute, and 429s for each of them."""
    with tempfile.TemporaryDirectory() as folder, LoopbackJudge(requests_per_minute=allowed, latency=LATENCY) as server:
        start = time.monotonic()
        if settings is None:
            asyncio.run(plainly(server.base_url, count, at_once))
        else:
            files = write_input(Path(folder), [f"answer {n}" for n in range(count // 2)])
            judge_file(judge_settings(server, **settings), *files, cache=Path(folder) / "cache")
        seconds = time.monotonic() - start
        answers = sum(server.answered.values())
        return 60 * answers / seconds, f"{server.limited / max(1, answers):.2f}"


async def plainly(base_url: str, count: int, at_once: bool) -> None:
    """Ask with what the client offers; what fails after its retries is given up."""
    async with openai.AsyncOpenAI(api_key=KEY, base_url=base_url, max_retries=6) as client:

        async def ask(n: int) -> None:
            messages = [{"role": "user", "content": f"aligned? {n}"}]
            options = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20, "temperature": 0}
            await client.chat.completions.create(model=MODEL, messages=messages, **options)  # type: ignore[call-overload]

        if at_once:
            await asyncio.gather(*(ask(n) for n in range(count)), return_exceptions=True)
        else:
            for n in range(count):
                await ask(n)


def memory_rows(count: int, asked: int) -> list[list[str]]:
    """The peak memory of a judging process, and of one that holds everything."""
    with tempfile.TemporaryDirectory() as name, LoopbackJudge() as server:
        folder = Path(name)
        files = write_input(folder, [f"{n} " + "word " * 200 for n in range(count)])
        settings = judge_settings(server)
        in_child(fill_cache, settings, files, folder / "cache", count - asked)
        ours = in_child(judge_in_child, settings, files, folder / "cache")
        lists = in_child(hold_in_lists, files, folder / "cache")
    rows = [("ours", ours), ("responses and replies in lists", lists)]
    return [[f"{name}, {count:,} judgments", "", "", "", f"{peak:,.0f}", f"{peak / ours:.2f}"] for name, peak in rows]


def fill_cache(settings: dict[str, object], files: tuple[Path, Path, Path], cache: Path, count: int) -> None:
    """Put in the cache what the server would have said of the first ``count`` responses."""
    judge = parse_settings(settings)
    others = [(f" other{i}", -5.0 - i / 7) for i in range(19)]
    with Cache(cache) as out:
        out.add(probes(judge)[0].key, {"text": "87 100", "top": [("87", -0.1)], "tokens": ["87", " 100"]})
        for n, request in enumerate(all_requests(judge, ResponseFile(*files[:2]), "logprobs")):
            if n >= 2 * count:
                break
            text = reply_to(request.fields["messages"][0]["content"])
            out.add(request.key, {"text": text, "top": [(text, -0.105), *others], "usage": (300, 1)})


def judge_in_child(settings: dict[str, object], files: tuple[Path, Path, Path], cache: Path) -> float:
    """Judge; return this process's peak memory in MB."""
    judge_file(settings, *files, cache=cache)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def hold_in_lists(files: tuple[Path, Path, Path], cache: Path) -> float:
    """Read all responses and replies; return this process's peak memory in MB."""
    held = [read_json(files[0]), read_jsonl(files[1])]
    held.append([json.loads(line) for shard in cache.glob("*.jsonl") for line in shard.open("rb")])
    assert len(held) == 3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
