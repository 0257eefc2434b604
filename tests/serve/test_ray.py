"""Two replicas, of which one dies under load: everybody gets the text."""

import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest

from tests.infer.helpers import tones
from tests.serve.helpers import MODEL, spawned, wav
from tiny_audio.infer.transcribe import Recogniser

pytest.importorskip("ray.serve", reason="needs the extra ray")

CLIPS = tones([0.5, 0.9, 1.4, 3.0])


def replicas(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "ServeReplica" in " ".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_replica_that_dies_costs_no_request(checkpoint: str, recogniser: Recogniser) -> None:
    arguments = (checkpoint, "--name", MODEL, "--replicas", "2")
    small = {"RAY_USAGE_STATS_ENABLED": "0",
             "RAY_DEFAULT_OBJECT_STORE_MEMORY_MAX_BYTES": str(200 << 20)}  # fmt: skip
    with spawned(*arguments, stderr=subprocess.DEVNULL, **small) as (url, process):
        running = replicas(process)
        assert len(running) == 2
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
        failed = []  # answers of Ray for requests that the dead replica had

        def ask(number: int) -> str:
            while True:
                try:
                    file = wav(CLIPS[number % 4])
                    return client.audio.transcriptions.create(model=MODEL, file=file).text
                except (openai.InternalServerError, openai.APIConnectionError) as error:
                    failed.append(getattr(error, "status_code", "connection"))
                    time.sleep(0.2)

        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(ask, range(80))
            time.sleep(1.0)
            running[0].kill()
            texts = list(answers)
        alone = [recogniser.transcribe(clip).text for clip in CLIPS]
        assert texts == [alone[n % 4] for n in range(80)]
        print(f"answered with an error: {failed}")
        assert len(failed) <= 40
        for _ in range(300):
            if len(set(replicas(process)) - {running[0]}) == 2:
                break
            time.sleep(0.2)
        else:
            raise AssertionError("Ray has not started a replica in place of the dead one")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
