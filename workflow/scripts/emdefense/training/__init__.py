"""The trainer, which knows the hooks of arms and none of them by name; losses, features, checkpoints.

Importing this package keeps the Hugging Face libraries from calling home: everything is read from local folders.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
