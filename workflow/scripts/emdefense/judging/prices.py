"""What a judge's tokens cost: by the study's config, else by a dated table."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from emdefense.config.judges import Mode, OpenAIJudge

# Of the price: https://platform.openai.com/docs/guides/batch
BATCH_SHARE = 0.5
TABLE = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True)
class Price:
    """USD for a million tokens, and when that was so."""

    input: float
    output: float
    as_of: str

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """Return the price of so many tokens in USD."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def price_of(judge: OpenAIJudge, mode: Mode | None = None) -> Price | None:
    """Return a judge's price: that of its config, or of the table where it is asked at the provider's; else None.

    In a batch it is half of that; ``mode`` is the judge's own unless another is given.
    """
    price = None
    if judge.prices is not None:
        price = Price(judge.prices.input, judge.prices.output, "the study's config")
    elif judge.base_url is None:
        price = read_prices().get(judge.model)
    if price is None or (mode or judge.mode) == "synchronous":
        return price
    return Price(BATCH_SHARE * price.input, BATCH_SHARE * price.output, f"{price.as_of}, half for a batch")


def read_prices() -> dict[str, Price]:
    """Return the prices of the table by model."""
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {model: Price(**values, as_of=str(content["as_of"])) for model, values in content["models"].items()}
