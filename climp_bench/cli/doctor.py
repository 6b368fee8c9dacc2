"""``climp-bench doctor``: what is installed, what can run here, and why not."""

from __future__ import annotations

from climp_bench.cli import console
from climp_bench.cli import options as opt

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "tokenizers",
    "clip-benchmark",
    "open_clip_torch",
    "datasets",
    "webdataset",
    "fvcore",
    "nvidia-ml-py",
    "numba",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
)

SCANS = {
    "ss2d": "scan of VMamba, the image towers of climp-m1, climp-m2 and climp-llama",
    "selective_scan": "scan of Mamba-1, the text towers of climp-m1 and rope-vit-m1",
    "ssd": "scan of Mamba-2, the text towers of climp-m2 and rope-vit-m2",
}
"""The state-space operators, and who uses them. Other models are PyTorch's own operators on any device."""


def doctor(json: opt.AsJson = False) -> None:
    """Report packages, devices, compute backends, weights and folders.

    Example:

      climp-bench doctor
    """
    facts = {
        "packages": _packages(),
        "devices": _devices(),
        "backends": _backends(),
        "weights": _weights(),
        "folders": _folders(),
    }
    if json:
        console.print_json(facts)
        return
    for title, lines in facts.items():
        console.out.print(title, style="bold")
        width = max((len(name) for name in lines), default=0)
        for name, text in lines.items():
            console.out.print(f"  {name:<{width}}  {text}", highlight=False, markup=False, soft_wrap=True)


def _packages() -> dict[str, str]:
    import platform
    from importlib import metadata

    from climp_bench import __version__

    found = {"climp-bench": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed" + (
                " (optional: pip install 'climp-bench[cuda]')"
                if name in ("mamba-ssm", "causal-conv1d")
                else ""
            )
    return found


def _devices() -> dict[str, str]:
    import os

    import torch

    devices = {"cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        devices["cuda"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    elif torch.version.cuda is None:
        devices["cuda"] = f"cannot run: torch {torch.__version__} is built without CUDA; all runs on the CPU"
    else:
        devices["cuda"] = (
            f"cannot run: torch {torch.__version__} finds no CUDA driver or device; all runs on the CPU"
        )
    return devices


def _backends() -> dict[str, str]:
    """For each state-space operator what runs by default, then every backend with its reason."""
    import torch

    from climp_bench.ops.dispatch import backends, resolve

    here = "cuda" if torch.cuda.is_available() else "cpu"
    lines = {}
    for op, users in SCANS.items():
        default = resolve(op, here)[1]
        lines[op] = f"{users}; run by {default} on {here}"
        if here == "cuda":
            lines[op] += f", {resolve(op, 'cpu')[1]} with --device cpu"
        for status in backends(op, here):
            if status.name == "meta":
                continue
            if status.name == default:
                verdict = "runs by default"
            elif status.available:
                verdict = f"can run with --backend {op}={status.name}"
            else:
                verdict = "cannot run"
            lines[f"{op}: {status.name}"] = f"{verdict}: {status.reason}"
    lines["check"] = "climp-bench bench-kernels compares them with the reference, and times them"
    return lines


def _weights() -> dict[str, str]:
    from climp_bench.errors import WeightsError
    from climp_bench.models.catalogue import all_models
    from climp_bench.models.store import locate

    lines = {}
    for spec in all_models():
        try:
            ref = locate(spec)
            lines[spec.name] = f"{ref.source}, sha256 {ref.digest[:16]}" if ref else "none here"
        except WeightsError as error:
            lines[spec.name] = str(error)
    return lines


def _folders() -> dict[str, str]:
    from climp_bench.embed.cache import default_root
    from climp_bench.models.store import user_store
    from climp_bench.suite.loader import shipped_dir

    return {
        "embeddings": str(default_root()),
        "weights": str(user_store()),
        "suites": str(shipped_dir()),
    }
