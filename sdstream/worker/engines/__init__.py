"""Compiled networks for streams that run already: asked for, found, built behind them, noted as used."""
