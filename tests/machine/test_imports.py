"""Only the stages that need torch import it: data, judging and reporting run where there is none."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"
# They train, sample, or handle weights; any other script, and any new one, stays without torch.
WITH_TORCH = {
    *("answer", "check_model", "choose", "generate", "make_byte_model", "make_microcosm_model", "measure_speed"),
    *("ship_microcosm_models", "change_adapter", "pool_losses", "prepare_arm", "read_held_out", "reference_features"),
    "train",
}
IMPORT_ALL = """
import ast, sys
from pathlib import Path
for script in sys.argv[1:]:
    tree = ast.parse(Path(script).read_text())
    exec("\\n".join(ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)))
    if "torch" in sys.modules:
        sys.exit(f"{script} imports torch")
"""


def test_scripts_without_weights_never_import_torch() -> None:
    scripts = sorted(path for path in SCRIPTS.glob("*.py") if path.stem not in WITH_TORCH)
    assert {"judge", "aggregate", "render", "page", "claims"} <= {path.stem for path in scripts}
    # Imported by their names.
    scripts += sorted(path for kind in ("tables", "figures") for path in SCRIPTS.glob(f"emdefense/report/{kind}/*.py"))
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *map(str, scripts)],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
