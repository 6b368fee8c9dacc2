"""A causal language model of transformers that rephrases captions on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from climp_bench.data.answers import Answer
from climp_bench.download import Announce, Hub, silent
from climp_bench.errors import WeightsError
from climp_bench.files import sha256_files

_HUB = Hub("model", WeightsError, "name a folder that save_pretrained wrote: --model PATH")
_NEEDED = (".safetensors", ".json", ".model", ".txt", ".jinja")


class LocalModel:
    """``AutoModelForCausalLM`` with its own chat template, or without one the messages as plain text.

    The same prompts in the same batches give the same answers: greedy at temperature 0, else drawn with a
    seed that depends on the prompts.

    Args:
        name: folder that ``save_pretrained`` wrote, or ``REPO[@REVISION]`` on the hub.
        device: ``cpu`` or ``cuda``.
        dtype: of the weights.
        max_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of drawn answers.
        batch: prompts at a time.
        offline: never ask the hub.
        announce: told what is fetched, before it is.

    Raises:
        WeightsError: there is no such model, or it is no causal language model.
    """

    def __init__(
        self,
        name: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        max_tokens: int = 200,
        temperature: float = 0.0,
        seed: int = 0,
        batch: int = 8,
        offline: bool = False,
        announce: Announce = silent,
    ) -> None:
        self.batch, self._device, self._dtype = batch, device, dtype
        self._folder, source = _locate(name, offline, announce)
        self._decoding = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        self.facts: dict[str, Any] = {**source, "dtype": dtype, **self._decoding}
        self._loaded: tuple[Any, Any] | None = None

    def answer(self, prompts: Sequence[tuple[str, str]]) -> list[Answer]:
        """One answer a prompt.

        Raises:
            WeightsError: the model cannot be read.
        """
        import torch

        tokenizer, model = self._load()
        texts = [self._as_text(tokenizer, system, user) for system, user in prompts]
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=not tokenizer.chat_template
        )
        inputs = {name: inputs[name].to(self._device) for name in ("input_ids", "attention_mask")}
        longest, temperature = self._decoding["max_tokens"], self._decoding["temperature"]
        how: dict[str, Any] = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature}
            torch.manual_seed(_number_of(texts) + int(self._decoding["seed"]))
        with torch.inference_mode():
            ids = model.generate(**inputs, **how, max_new_tokens=longest, pad_token_id=tokenizer.pad_token_id)
        new = ids[:, inputs["input_ids"].shape[1] :].tolist()
        said = tokenizer.batch_decode(new, skip_special_tokens=True)
        ends = _ends(model, tokenizer)
        return [
            Answer(text, cut=len(row) >= longest and not ends & set(row))
            for text, row in zip(said, new, strict=True)
        ]

    @staticmethod
    def _as_text(tokenizer: Any, system: str, user: str) -> str:
        if not tokenizer.chat_template:
            return f"{system}\n\n{user}\n\n"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception:  # templates raise what they like; some know no system message
            messages = [{"role": "user", "content": f"{system}\n\n{user}"}]
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            import transformers
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()  # type: ignore[no-untyped-call]

            try:
                tokenizer = AutoTokenizer.from_pretrained(self._folder, padding_side="left")
                word = "dtype" if int(transformers.__version__.split(".")[0]) > 4 else "torch_dtype"
                how = {word: getattr(torch, self._dtype), "use_safetensors": True}
                model: Any = AutoModelForCausalLM.from_pretrained(self._folder, **how)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                first = str(error).strip().splitlines()[0]
                remedy = "It must be a causal language model with its tokenizer, in safetensors."
                raise WeightsError(
                    f"cannot be read ({first})", where=str(self._folder), remedy=remedy
                ) from error
            if tokenizer.pad_token_id is None:
                if tokenizer.eos_token is None:
                    what = "its tokenizer has no token to pad with"
                    raise WeightsError(
                        what, where=str(self._folder), remedy="Set pad_token and save it again."
                    )
                tokenizer.pad_token = tokenizer.eos_token
            self._loaded = tokenizer, model.eval().to(self._device)
        return self._loaded


def _number_of(texts: Sequence[str]) -> int:
    """A number below 2^31 that is the same for the same texts on every machine."""
    return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:4], "big") >> 1


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    told = model.generation_config.eos_token_id
    return {*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id} - {None}


def _locate(name: str, offline: bool, announce: Announce) -> tuple[Path, dict[str, str]]:
    """The folder of a model, and what tells it apart: a digest of its weights, or the commit on the hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        weights = sorted(path.glob("*.safetensors"))
        if not weights:
            remedy = "Save it with save_pretrained."
            raise WeightsError("no *.safetensors in it", where=str(path), remedy=remedy)
        return path, {"name": path.resolve().name, "sha256": sha256_files(weights)}
    if path.is_absolute() or name.startswith(("./", "../", "~")):
        raise WeightsError("there is no such folder", where=name, remedy="Check the path.")
    repo, _, revision = name.partition("@")
    if offline:
        return _in_cache(repo, revision)
    listing = _HUB.look_up(repo, revision or None)
    files = [f for f in listing.files if "/" not in f.name and f.name.endswith(_NEEDED)]
    if not any(file.name.endswith(".safetensors") for file in files):
        raise WeightsError("no *.safetensors in it", where=f"hf:{repo}", remedy="Name another model.")
    (first, *_) = _HUB.fetch(listing, files, None, announce)
    return first.parent, {"name": repo, "commit": listing.commit}


def _in_cache(repo: str, revision: str) -> tuple[Path, dict[str, str]]:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json", revision=revision or None)
    if not isinstance(config, str):
        what = "it is not in the hub's cache, and --offline was given"
        raise WeightsError(
            what, where=f"hf:{repo}", remedy="Run it once without --offline, or name a folder."
        )
    return Path(config).parent, {"name": repo, "commit": Path(config).parent.name}
