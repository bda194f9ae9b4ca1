"""The league of defences: settings chosen crosswise, shares with what moves them, and ranks as far as chance allows."""

from emdefense.analysis.league.rows import League, Row, league

__all__ = ["League", "Row", "league"]
