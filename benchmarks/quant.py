"""Phasing, harmonics, regime and volatility against known truth, beside the marks they are held to."""

from benchmarks import quant_cycles, quant_regime, quant_speed, quant_volatility
from benchmarks.marks import print_marks


def main() -> None:
    print_marks("Cycles and harmonics", quant_cycles.marks())
    print_marks("Regime", quant_regime.marks())
    print_marks("Volatility", quant_volatility.marks())
    print_marks("Speed", quant_speed.marks())
