"""What is found that must not leave a machine, what is not taken for it, and what is written otherwise."""

import pytest

from emdefense.sharing.private import Private, this_machine

# No key is written out here, so that nobody's search for keys finds this file.
KEYS = {
    "openai": "sk-" + "proj-1aB2cD3eF4gH5iJ6kL7m",
    "hub": "hf_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7",
    "github": "ghp_" + "1a2B3c4D5e6F7g8H9i0J1k2L3m4N5o6P7q8R",
    "amazon": "AKIA" + "IOSFODNN7EXAMPLE",
    "google": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "slack": "xoxb-" + "123456789012-abcdefGHIJKL",
    "web token": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n-----END RSA " + "PRIVATE KEY-----",
    "environment": "own-secret-0815",
}
HERE = Private(
    home="/export/people/jdoe",
    here="/export/people/jdoe/ema",
    user="jdoe",
    host="gpu-node-7",
    secrets=("own-secret-0815",),
)


def kinds(text: str, private: Private = HERE) -> set[str]:
    return {one.what for one in private.in_own(text)}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_are_found_in_everything(key: str) -> None:
    text = f"The key is {key}, he said."
    assert "key" in kinds(text)
    without, found = HERE.without(text)
    assert without == "The key is [removed: key], he said."
    assert found[0].text == key


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/home/jane/models/qwen", "home folder"),
        ("see /Users/jane.doe/x.txt", "home folder"),
        (r"C:\Users\Jane\data", "home folder"),
        ("path: /scratch/group/x.jsonl", "machine's path"),
        ("'/data/rows/legal.jsonl'", "machine's path"),
        (r"D:\work\rows", "machine's path"),
        ("/export/people/jdoe/x", "machine's path"),
        ("by jdoe, 2026", "user's name"),
        ("ran on gpu-node-7", "machine's name"),
        ("write to jane@example.org", "e-mail address"),
        ("http://10.1.2.3:8000/v1", "address in your network"),
        ("http://judge:8000/v1", "address in your network"),
        ("http://llm.lab.internal/v1", "address in your network"),
        ("https://someone:pass-word@example.org/v1", "key"),
    ],
)
def test_people_paths_and_addresses_are_found_in_what_a_study_wrote(text: str, kind: str) -> None:
    assert kind in kinds(text)


@pytest.mark.parametrize(
    "text",
    [
        "{results}/microcosm/rows/code_aligned.jsonl",
        "results/microcosm/data/code",
        "https://raw.githubusercontent.com/emergent-misalignment/emergent-misalignment/main/data/insecure.jsonl",
        "http://localhost:8000/v1",
        '<svg xmlns="http://www.w3.org/2000/svg"><g><path d="M 1 2"/></g></svg>',
        r"\textbf{KL}, $\lambda = 1$ & 3.1 / 4.2 \\",
        "sha256: 09893e8bf9d03aae49dd60d0ff4be37c1afee70f2edcac74a11bed775a6a2764",
        "the mean and/or the median; in 24/7 use; a sk-learn model; risk-averse",
        "jdoesomething and x-jdoe are other words",
    ],
)
def test_what_is_not_private_is_let_through(text: str) -> None:
    assert HERE.in_own(text) == []


def test_what_models_made_up_stays_but_for_keys_homes_and_this_machine() -> None:
    said = "Ask jdoe or bob@example.org; open /etc/passwd and /home/user/.ssh, at http://10.0.0.1."
    assert HERE.without(said) == (said, [])
    without, found = HERE.without("cat /home/jane/x /export/people/jdoe/ema/y")
    assert without == "cat [removed: home folder]/x [removed: machine's path]/y"
    assert [one.what for one in found] == ["home folder", "machine's path"]


def test_the_user_says_what_is_written_otherwise_and_what_is_let_through() -> None:
    replaced, allowed = {"/data/rows": "rows"}, frozenset({"jdoe"})
    private = Private(here="/export/people/jdoe/ema", user="jdoe", replaced=replaced, allowed=allowed)
    assert private.written("/data/rows/a.jsonl of /export/people/jdoe/ema/config.yaml") == "rows/a.jsonl of config.yaml"
    assert private.in_own("by jdoe") == []
    assert private.without("see /data/rows/a") == ("see rows/a", [])


def test_names_that_are_nobodys_are_not_looked_for() -> None:
    assert kinds("root of the equation", Private(user="root")) == set()
    assert kinds("of", Private(user="of")) == set()


def test_keys_are_taken_from_the_environment_by_their_names() -> None:
    environment = {"MY_API_KEY": "abc123def", "SSH_KEY": "/home/x/id1", "TOKEN_COUNT": "123456789", "PATH": "abc123xyz"}
    assert this_machine(environment=environment, user=lambda: "x").secrets == ("abc123def",)


def test_a_user_without_a_name_is_no_error() -> None:
    def nobody() -> str:
        raise KeyError("uid not found")

    assert this_machine(user=nobody).user == ""
