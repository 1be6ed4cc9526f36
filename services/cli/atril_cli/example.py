"""A real handwritten digit, so that the `curl` line which `atril run` prints works when pasted."""

DIGIT_3_PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARElEQVR42jXGMRGAMBAAsBzHzkuolJeCBHBQB0jA"
    "Ag4qoRbqoEhgIlNwzB5Q+z4TSvSOxYgyAojW/t3VQs3Mzcp7eU4fVhgPr6U3F5oAAAAASUVORK5CYII="
)
"""Picture 3 of scikit-learn's digits (UCI Optical Recognition of Handwritten Digits), 8x8 PNG."""


def classify_curl(base_url: str, model_name: str) -> str:
    """A `curl` command that classifies the digit."""
    return (
        f"curl -s {base_url}/v1/models/{model_name}:classify \\\n"
        f"  -H 'content-type: application/json' \\\n"
        f'  -d \'{{"pictures": [{{"b64": "{DIGIT_3_PNG_BASE64}"}}]}}\''
    )
