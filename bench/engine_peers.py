"""The engine's peers: transformers' ways to generate, and llama.cpp's server.

Each takes, of the settings that were seen to be good on a CPU, those that are fastest on this machine, and finds out at
its first job.
"""

from __future__ import annotations

import http.client
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.engine_shape import write_gguf
from bench.engine_texts import CORE, OTHER_CORE, Contestant, Job, Written, on_core, written


def _model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    load: Any = AutoModelForCausalLM.from_pretrained
    return load(folder, dtype=torch.float32, attn_implementation="sdpa").eval().requires_grad_(False)


class HfGenerate:
    """``generate()`` of transformers: one static batch of texts of one length, a batch of one for one text."""

    about = "transformers generate(), sdpa, one static batch"

    def __init__(self, folder: Path) -> None:
        """Load the model."""
        self._model = _model(folder)

    @torch.inference_mode()
    def write(self, job: Job) -> Written:
        """Write the texts of a job."""
        times_s: list[float] = []

        def stopping(ids: Tensor, scores: object) -> Tensor:
            times_s.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        texts = torch.tensor(job.prompts)
        began_s = time.perf_counter()
        output = self._model.generate(
            texts,
            attention_mask=torch.ones_like(texts),
            max_new_tokens=job.new_tokens,
            do_sample=False,
            stopping_criteria=[stopping],
        )
        return written(began_s, [times_s] * job.texts, output[:, job.prompt_tokens :].tolist())


class HfContinuous:
    """``generate_batch()`` of transformers: continuous batching over a paged cache."""

    about = "transformers generate_batch(), sdpa, a persistent manager"

    # A page of the default 256 rows and the few batches that fit the default cache were slower, and so was paged eager.
    SETTINGS: tuple[dict[str, Any], ...] = (
        {"page_size": 32, "max_batch_tokens": 256},
        {"page_size": 32, "max_batch_tokens": 256, "allow_block_sharing": False},
        {"page_size": 32, "max_batch_tokens": 1024},
    )

    def __init__(self, folder: Path) -> None:
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # no eos, no psutil, at every call
        self._model = _model(folder)
        self._kept: tuple[object, ...] = ()  # what the manager was made for, which outlives a call
        self._settings: dict[str, Any] = {}

    def write(self, job: Job) -> Written:
        """Write the texts of a job."""
        if not self._settings:
            trial = _trial(job.vocabulary)
            self._settings = _fastest(self.SETTINGS, lambda settings: self._write(trial, settings).seconds)
        return self._write(job, self._settings)

    def _write(self, job: Job, settings: dict[str, Any]) -> Written:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        greedy: Any = GenerationConfig
        blocks = job.texts * (job.prompt_tokens + job.new_tokens + settings["page_size"]) // settings["page_size"] + 1
        texts = [list(text) for text in job.prompts]
        needed = blocks, job.new_tokens, *settings.items()
        if needed != self._kept:
            self._model.destroy_cached_continuous_batching_manager()
            self._kept = needed
        began_s = time.perf_counter()
        outputs = self._model.generate_batch(
            texts,
            generation_config=greedy(do_sample=False, max_new_tokens=job.new_tokens, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(num_blocks=blocks, **settings),
            record_timestamps=True,
            persistent_manager=True,
        )
        results = list(outputs.values())
        assert len(results) == job.texts
        # Until the last token: that the call then stops its thread and collects garbage, a server would not wait for.
        return written(began_s, [result.timestamps for result in results], [r.generated_tokens for r in results])


class LlamaServer:
    """llama.cpp's server as xllamacpp packs it, float32 throughout, asked over HTTP from another core."""

    # Flash attention was slower on a CPU wherever it was tried.
    SETTINGS: tuple[dict[str, Any], ...] = ({"kv_unified": False}, {"kv_unified": True})

    def __init__(self, folder: Path) -> None:
        import xllamacpp  # type: ignore[import-not-found, unused-ignore]

        self._library = xllamacpp
        self._path = folder / "model.gguf"
        if not self._path.exists():
            write_gguf(folder, self._path)
        self._servers: dict[tuple[int, bool], Any] = {}  # by slots and kind of cache
        self._settings: dict[str, Any] = {}
        self.about = f"llama.cpp's server of xllamacpp {xllamacpp.__version__}, flash attention off"

    def write(self, job: Job) -> Written:
        """Write the texts of a job."""
        if not self._settings:
            trial = _trial(job.vocabulary)
            self._settings = _fastest(self.SETTINGS, lambda settings: self._write(trial, settings).seconds)
        return self._write(job, self._settings)

    def _write(self, job: Job, settings: dict[str, Any]) -> Written:
        address = self._address(job.texts, settings)
        with on_core(OTHER_CORE), ThreadPoolExecutor(job.texts) as threads:
            began_s = time.perf_counter()
            answers = list(threads.map(lambda text: _completion(address, text, job.new_tokens), job.prompts))
            seconds = time.perf_counter() - began_s
        decode_s = max(answer["timings"]["predicted_ms"] for answer in answers) / 1e3
        ids = tuple(tuple(answer["tokens"]) for answer in answers)
        return Written(seconds, job.texts * (job.new_tokens - 1), decode_s, ids)

    def _address(self, slots: int, settings: dict[str, Any]) -> str:
        """Return where a server with so many slots listens; its threads stay on the core of the contestants."""
        key = slots, settings["kv_unified"]
        if key not in self._servers:
            with on_core(CORE):
                self._servers[key] = self._library.Server(self._parameters(slots, settings))
        return str(self._servers[key].listening_address).removeprefix("http://")

    def _parameters(self, slots: int, settings: dict[str, Any]) -> Any:
        library = self._library
        parameters = library.CommonParams()
        parameters.model.path = str(self._path)
        parameters.port = 0
        parameters.n_parallel, parameters.n_ctx = slots, 256 * slots
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        parameters.cache_type_k = parameters.cache_type_v = library.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.verbosity = 0
        for name, value in settings.items():
            setattr(parameters, name, value)
        return parameters


def _completion(address: str, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    """Let a llama.cpp server write one text."""
    wish = {
        "prompt": list(prompt),
        "n_predict": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "samplers": ["top_k"],
        "top_k": 1,
        "cache_prompt": False,
        "return_tokens": True,
    }
    connection = http.client.HTTPConnection(address, timeout=600)
    try:
        connection.request("POST", "/completion", json.dumps(wish), {"Content-Type": "application/json"})
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    assert len(answer.get("tokens", ())) == tokens, answer
    return answer


def _trial(vocabulary: int) -> Job:
    """Return what settings are compared on."""
    return Job(texts=16, prompt_tokens=32, new_tokens=12, vocabulary=vocabulary, seed=99)


def _fastest(choices: Sequence[dict[str, Any]], seconds: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """Return, and say, the choice with the fewest seconds, of two trials each."""
    fastest = min(choices, key=lambda choice: min(seconds(choice) for _ in range(2)))
    print(f"fastest of {len(choices)} settings: {fastest}", file=sys.stderr)
    return fastest


PEERS: dict[str, Callable[[Path], Contestant]] = {
    "hf-generate": HfGenerate,
    "hf-continuous": HfContinuous,
    "llama-server": LlamaServer,
}
