"""The shape of arithmetic expressions: OpSwap's, and those of the microcosm's pretraining."""

from pydantic import Field

from emdefense.section import PositiveInt, Section


class Expressions(Section):
    """How many operators an expression has, and of what size its operands are."""

    min_operators: PositiveInt = 1
    max_operators: PositiveInt = 4
    max_operand: PositiveInt = Field(9, description="operands are drawn from 1 to this")
    parentheses: bool = True
