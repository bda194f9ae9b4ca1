"""The league of defences: settings chosen crosswise, shares with what moves them, and ranks as far as chance allows."""

from emdefense.analysis.league.rows import League, Row, best_setting, league

__all__ = ["League", "Row", "best_setting", "league"]
